<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// The tables that a skeleton keeps its sessions, caches and jobs in before there is a Redis.

[, $file] = $argv;
@mkdir(dirname($file), 0775, true);
$database = new PDO("sqlite:$file");
foreach ([
    'sessions (id varchar primary key, user_id integer, ip_address varchar, user_agent text, payload text, last_activity integer)',
    'cache (key varchar primary key, value text, expiration integer)',
    'cache_locks (key varchar primary key, owner varchar, expiration integer)',
    'jobs (id integer primary key autoincrement, queue varchar, payload text, attempts integer, reserved_at integer,'
        .' available_at integer, created_at integer)',
] as $table) {
    $database->exec("create table if not exists $table");
}
