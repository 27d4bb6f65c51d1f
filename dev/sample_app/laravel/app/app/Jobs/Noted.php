<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Jobs;

// Notes that it was done, and by a worker with which default store.
class Noted
{
    public function fire($job, array $data): void
    {
        file_put_contents(storage_path('logs/jobs'), $data['number'].' '.config('cache.default')."\n", FILE_APPEND | LOCK_EX);
        $job->delete();
    }
}
