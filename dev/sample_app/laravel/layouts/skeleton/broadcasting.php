<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// The keys and defaults of Laravel 11 to 13.

return [
    'default' => env('BROADCAST_CONNECTION', 'null'),
    'connections' => [
        'redis' => ['driver' => 'redis', 'connection' => env('BROADCAST_REDIS_CONNECTION', 'default')],
        'log' => ['driver' => 'log'],
        'null' => ['driver' => 'null'],
    ],
];
