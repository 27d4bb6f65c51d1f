<?php
// SPDX-License-Identifier: GPL-3.0-or-later

use Illuminate\Support\Str;

// One entry serves both drivers: redis reads the connection, file the path.
$store = static fn (string $driver, string $name): array => [
    'driver' => $driver,
    'connection' => 'default',
    'path' => storage_path("framework/cache/$name"),
];

return [
    'default' => env('CACHE_DRIVER', 'file'),
    'stores' => [
        'file' => $store('file', 'data'),
        // A session on Redis needs a store of this very name.
        'redis' => $store('redis', 'data'),
        'array' => ['driver' => 'array', 'serialize' => false],
        'method' => $store(env('METHOD_CACHE_DRIVER', 'file'), 'method'),
        'batch' => $store(env('BATCH_CACHE_DRIVER', 'file'), 'batch'),
    ],
    'prefix' => env('CACHE_PREFIX', Str::slug(env('APP_NAME', 'verify'), '_').'_cache'),
];
