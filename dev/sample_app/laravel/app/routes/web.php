<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// With a session.

use Illuminate\Support\Facades\Route;

// `owner` is what the client said in its first request: an answer with another one comes from somebody else's session.
Route::get('/counter', static function () {
    $session = request()->session();
    $session->put('n', $session->get('n', 0) + 1);
    if (! $session->has('owner')) {
        $session->put('owner', (string) request()->query('owner', ''));
    }

    return [
        'n' => $session->get('n'),
        'owner' => $session->get('owner'),
        'sid' => $session->getId(),
        'driver' => config('session.driver'),
        'connection' => config('session.connection'),
    ];
});
