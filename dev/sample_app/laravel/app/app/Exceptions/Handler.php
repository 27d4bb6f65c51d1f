<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Exceptions;

use Illuminate\Foundation\Exceptions\Handler as ExceptionHandler;
use Throwable;

class Handler extends ExceptionHandler
{
    // What a test reads; a page for people is not needed here.
    public function render($request, Throwable $e)
    {
        return response()->json(['error' => $e->getMessage(), 'class' => get_class($e)], $this->isHttpException($e) ? $e->getStatusCode() : 500);
    }
}
