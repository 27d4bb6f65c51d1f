<?php
// SPDX-License-Identifier: GPL-3.0-or-later

use Illuminate\Support\Str;

return [
    'default' => 'none',
    'connections' => [],
    'migrations' => 'migrations',
    'redis' => [
        'client' => env('REDIS_CLIENT', 'phpredis'),
        'options' => [
            'cluster' => 'redis',
            'prefix' => env('REDIS_PREFIX', Str::slug(env('APP_NAME', 'verify'), '_').'_database_'),
        ],
        'default' => [
            'url' => env('REDIS_URL'),
            'host' => env('REDIS_HOST', '127.0.0.1'),
            'password' => env('REDIS_PASSWORD'),
            'port' => env('REDIS_PORT', 6379),
            'database' => env('REDIS_DB', 0),
        ],
        'session' => [
            'host' => env('SESSION_REDIS_HOST', '127.0.0.1'),
            'password' => env('SESSION_REDIS_PASSWORD'),
            'port' => env('SESSION_REDIS_PORT', 6379),
            'database' => env('SESSION_REDIS_DB', 0),
        ],
    ],
];
