<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// Sessions in a database ask who is logged in, which is nobody here.

return [
    'defaults' => ['guard' => 'web'],
    'guards' => ['web' => ['driver' => 'session', 'provider' => 'nobody']],
    'providers' => ['nobody' => ['driver' => 'database', 'table' => 'nobody']],
];
