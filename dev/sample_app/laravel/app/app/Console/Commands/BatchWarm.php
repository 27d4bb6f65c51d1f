<?php
// SPDX-License-Identifier: GPL-3.0-or-later

namespace App\Console\Commands;

use Illuminate\Console\Command;
use Illuminate\Support\Facades\Cache;

class BatchWarm extends Command
{
    protected $signature = 'batch:warm {--items=50 : How many} {--seconds=3600 : How long they live}';

    protected $description = 'Fill the batch store';

    public function handle(): int
    {
        $run = bin2hex(random_bytes(6));
        $store = Cache::store('batch');
        $items = (int) $this->option('items');
        for ($i = 1; $i <= $items; $i++) {
            $store->put("batch:item:$i", ['i' => $i, 'run' => $run], (int) $this->option('seconds'));
        }
        $this->line(json_encode(['run' => $run, 'items' => $items, 'driver' => config('cache.stores.batch.driver')]));

        return 0;
    }
}
