<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Console\Commands;

use Illuminate\Console\Command;
use Illuminate\Support\Facades\Cache;

class BatchSlow extends Command
{
    protected $signature = 'batch:slow {--steps=10 : How many} {--pause=1 : Seconds between them} {--fail-at=0 : The step that fails}';

    protected $description = 'Fill the batch store slowly, and say how far it is';

    public function handle(): int
    {
        $steps = (int) $this->option('steps');
        for ($step = 1; $step <= $steps; $step++) {
            if ($step === (int) $this->option('fail-at')) {
                $this->error("step $step of $steps failed");

                return 3;
            }
            Cache::store('batch')->put("batch:step:$step", $step, 3600);
            $this->line("step $step of $steps");
            usleep((int) round((float) $this->option('pause') * 1e6));
        }

        return 0;
    }
}
