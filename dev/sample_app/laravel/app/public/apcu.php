<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// Clears php-fpm's APCu and says so. Only for the machine itself: the web server's own address counts, no header does.

header('Content-Type: application/json');
if (! in_array($_SERVER['REMOTE_ADDR'] ?? '', ['127.0.0.1', '::1'], true)) {
    http_response_code(403);
    exit(json_encode(['cleared' => false, 'error' => 'only from the host itself'])."\n");
}
$entries = static fn (): int => (int) (apcu_cache_info(true)['num_entries'] ?? -1);
$before = $entries();
$cleared = apcu_clear_cache();
echo json_encode(['cleared' => $cleared, 'before' => $before, 'after' => $entries(), 'sapi' => PHP_SAPI])."\n";
