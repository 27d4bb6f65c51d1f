<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Console\Commands;

use App\Jobs\Noted;
use Illuminate\Console\Command;
use Illuminate\Support\Facades\Queue;

class JobSend extends Command
{
    protected $signature = 'job:send {from} {to}';

    protected $description = 'Put numbered jobs into the queue';

    public function handle(): int
    {
        foreach (range((int) $this->argument('from'), (int) $this->argument('to')) as $number) {
            Queue::push(Noted::class, ['number' => $number]);
        }

        return 0;
    }
}
