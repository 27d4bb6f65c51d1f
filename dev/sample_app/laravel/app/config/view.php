<?php
// SPDX-License-Identifier: GPL-3.0-or-later

return ['paths' => [], 'compiled' => storage_path('framework/views')];
