<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Http;

use Illuminate\Foundation\Http\Kernel as HttpKernel;

class Kernel extends HttpKernel
{
    protected $middlewareGroups = [
        'web' => [
            \Illuminate\Cookie\Middleware\EncryptCookies::class,
            \Illuminate\Cookie\Middleware\AddQueuedCookiesToResponse::class,
            \Illuminate\Session\Middleware\StartSession::class,
            \Illuminate\Routing\Middleware\SubstituteBindings::class,
        ],
        // No session: answers while the session's Redis is away.
        'plain' => [
            \Illuminate\Routing\Middleware\SubstituteBindings::class,
        ],
    ];
}
