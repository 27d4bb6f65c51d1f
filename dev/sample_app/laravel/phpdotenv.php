<?php
// SPDX-License-Identifier: GPL-3.0-or-later
// The real parser, asked by the tests: a line with a .env file's bytes in base64 comes in, a line of JSON goes out with what
// phpdotenv gives and what Laravel's env() makes of it, each value in base64 since it need not be UTF-8.

declare(strict_types=1);

require 'Dotenv/autoload.php';

$directory = $argv[1];
$file = "$directory/.env";

// As in Illuminate\Support\Env::get, which the package with only phpdotenv does not bring.
$env = static function (?string $value) {
    if ($value === null) {
        return null;
    }
    switch (strtolower($value)) {
        case 'true':
        case '(true)':
            return true;
        case 'false':
        case '(false)':
            return false;
        case 'empty':
        case '(empty)':
            return '';
        case 'null':
        case '(null)':
            return null;
    }
    if (preg_match('/\A([\'"])(.*)\1\z/', $value, $matches)) {
        return $matches[2];
    }

    return $value;
};
$packed = static fn ($value) => is_string($value) ? ['text' => base64_encode($value)] : ['value' => $value];

while (($line = fgets(STDIN)) !== false) {
    file_put_contents($file, base64_decode(trim($line)));
    try {
        $found = Dotenv\Dotenv::createArrayBacked($directory)->load();
        $answer = [
            // An object also when it is empty.
            'dotenv' => (object) array_map($packed, $found),
            'env' => (object) array_map(static fn ($value) => $packed($env($value)), $found),
            'error' => null,
        ];
    } catch (Throwable $error) {
        $answer = ['dotenv' => (object) [], 'env' => (object) [], 'error' => $error->getMessage()];
    }
    fwrite(STDOUT, json_encode($answer, JSON_THROW_ON_ERROR)."\n");
    fflush(STDOUT);
}
