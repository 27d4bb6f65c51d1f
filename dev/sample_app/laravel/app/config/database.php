<?php
// SPDX-License-Identifier: GPL-3.0-or-later

use Illuminate\Support\Str;

// Predis takes the user's name from a key of its own, phpredis does from Laravel 9.6 on. This is Laravel 8: with the password.
$login = static fn (?string $name, ?string $password) =>
    $name !== null && env('REDIS_CLIENT', 'phpredis') === 'phpredis' ? [$name, $password] : $password;

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
            'scheme' => env('REDIS_SCHEME', 'tcp'),
            'host' => env('REDIS_HOST', '127.0.0.1'),
            'username' => env('REDIS_USERNAME'),
            'password' => $login(env('REDIS_USERNAME'), env('REDIS_PASSWORD')),
            'port' => env('REDIS_PORT', 6379),
            'database' => env('REDIS_DB', 0),
        ],
        'session' => [
            'scheme' => env('SESSION_REDIS_SCHEME', 'tcp'),
            'host' => env('SESSION_REDIS_HOST', '127.0.0.1'),
            'username' => env('SESSION_REDIS_USERNAME'),
            'password' => $login(env('SESSION_REDIS_USERNAME'), env('SESSION_REDIS_PASSWORD')),
            'port' => env('SESSION_REDIS_PORT', 6379),
            'database' => env('SESSION_REDIS_DB', 0),
        ],
    ],
];
