<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// Without a session.

use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\Redis;
use Illuminate\Support\Facades\Route;

Route::get('/', static fn () => ['application' => config('app.name')]);

// Made on the first request and kept: the same value again means that it came from the store.
Route::get('/method/{key}', static function (string $key) {
    $store = Cache::store('method');
    $hit = $store->has($key);

    return ['key' => $key, 'hit' => $hit, 'value' => $store->remember($key, 600, static fn () => uniqid('v', true))];
});

Route::get('/batch/{item}', static fn (string $item) => ['item' => $item, 'value' => Cache::store('batch')->get("batch:item:$item")]);

Route::get('/apcu-put/{key}/{value}', static fn (string $key, string $value) => ['stored' => apcu_store($key, $value, 600)]);

Route::get('/apcu-get/{key}', static fn (string $key) => ['value' => apcu_fetch($key)]);

// Which of them an application of any layout uses where none is named, and that it can be used.
Route::get('/stores', static function () {
    Cache::put('asked', 'yes', 60);

    return ['default' => Cache::get('asked') === 'yes' ? config('cache.default') : '', 'session' => config('session.driver')];
});

Route::get('/diag', static function () {
    $answer = [
        'sapi' => PHP_SAPI,
        'cached' => app()->configurationIsCached(),
        'method' => config('cache.stores.method.driver'),
        'batch' => config('cache.stores.batch.driver'),
        'session' => config('session.driver'),
        'session_connection' => config('session.connection'),
        'connections' => [],
    ];
    foreach (array_intersect(['default', 'session', 'cache'], array_keys(config('database.redis'))) as $name) {
        $settings = config("database.redis.$name");
        try {
            // A server that accepts and never answers would hold this for a minute.
            $ping = request()->has('quiet') ? '' : (string) json_encode(Redis::connection($name)->command('ping'));
        } catch (Throwable $error) {
            $ping = $error->getMessage();
        }
        $answer['connections'][$name] = [
            'host' => $settings['host'],
            'port' => $settings['port'],
            'database' => $settings['database'],
            'password' => substr(hash('sha256', (string) $settings['password']), 0, 8),
            'ping' => $ping,
        ];
    }

    return $answer;
});
