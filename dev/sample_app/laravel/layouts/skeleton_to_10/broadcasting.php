<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// The keys and defaults of Laravel 6 to 10.

return [
    'default' => env('BROADCAST_DRIVER', 'null'),
    'connections' => [
        'redis' => ['driver' => 'redis', 'connection' => 'default'],
        'log' => ['driver' => 'log'],
        'null' => ['driver' => 'null'],
    ],
];
