"""The PHP that asks a Laravel application what it really uses: by artisan's way in, and in php-fpm itself."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

# The answer is the one line that begins with this and the question's own token; whatever else is printed is not it.
MARK = "spotcache-answer-"

PROGRAM = r"""
$answer = static function (array $found) use ($question): void {
    $packed = base64_encode(json_encode($found, JSON_INVALID_UTF8_SUBSTITUTE));
    echo "\nspotcache-answer-", $question['token'], " $packed\n";
};
$why = static function (Throwable $error): string {
    // phpdotenv quotes the line it stumbled over, which may be a password's.
    return get_class($error).': '.preg_replace('/ at \[.*/s', '', $error->getMessage());
};
error_reporting(E_ALL & ~E_DEPRECATED);
// A server that accepts and never answers must not hold this for a minute.
ini_set('default_socket_timeout', (string) $question['timeout']);
set_time_limit(0);
$path = $question['path'];

$listen = static function () use ($question): array {
    if ($question['fpm'] !== 'auto') {
        return [$question['fpm']];
    }
    $version = PHP_MAJOR_VERSION.'.'.PHP_MINOR_VERSION;
    $sockets = array_merge(
        glob("/run/php/php$version-fpm*.sock"),
        glob('/run/php/*.sock'),
        glob('/run/php-fpm/*.sock'),
        glob('/var/run/*fpm*.sock')
    );

    return array_values(array_unique(array_merge($sockets, ['127.0.0.1:9000'])));
};

// One FastCGI request, without a web server.
$request = static function (string $address, string $script) use ($question): array {
    $target = $address[0] === '/' ? "unix://$address" : "tcp://$address";
    $socket = @stream_socket_client($target, $number, $message, 3);
    if (! $socket) {
        return ['connected' => false, 'error' => $message];
    }
    stream_set_timeout($socket, $question['patience']);
    $length = static fn (string $text): string => pack('N', strlen($text) | 0x80000000);
    $parameters = '';
    $server = [
        'SCRIPT_FILENAME' => $script,
        'SCRIPT_NAME' => '/spotcache.php',
        'REQUEST_METHOD' => 'GET',
        'REQUEST_URI' => '/spotcache.php',
        'SERVER_PROTOCOL' => 'HTTP/1.1',
        'SERVER_NAME' => 'localhost',
        'SERVER_PORT' => '80',
        'HTTP_HOST' => 'localhost',
        'REMOTE_ADDR' => '127.0.0.1',
        'GATEWAY_INTERFACE' => 'CGI/1.1',
        'HTTP_X_SPOTCACHE' => $question['token'],
    ];
    foreach ($server as $name => $value) {
        $parameters .= $length($name).$length($value).$name.$value;
    }
    $record = static fn (int $type, string $content): string =>
        pack('CCnnCC', 1, $type, 1, strlen($content), 0, 0).$content;
    fwrite($socket, $record(1, pack('nCx5', 1, 0)).$record(4, $parameters).$record(4, '').$record(5, ''));
    $out = '';
    $errors = '';
    while (strlen($head = (string) stream_get_contents($socket, 8)) === 8) {
        $fields = unpack('Cversion/Ctype/nid/nlength/Cpadding/Creserved', $head);
        $content = $fields['length'] > 0 ? (string) stream_get_contents($socket, $fields['length']) : '';
        if ($fields['padding'] > 0) {
            stream_get_contents($socket, $fields['padding']);
        }
        if ($fields['type'] === 6) {
            $out .= $content;
        } elseif ($fields['type'] === 7) {
            $errors .= $content;
        } elseif ($fields['type'] === 3) {
            break;
        }
    }
    $late = stream_get_meta_data($socket)['timed_out'];
    fclose($socket);

    return ['connected' => true, 'late' => $late, 'out' => $out, 'errors' => $errors];
};

if ($question['do'] === 'fpm') {
    $folder = is_writable("$path/storage/framework") ? "$path/storage/framework" : sys_get_temp_dir();
    foreach (glob("$folder/spotcache-*.php") as $left) {
        if (filemtime($left) < time() - 600) {
            @unlink($left);
        }
    }
    $script = "$folder/spotcache-".bin2hex(random_bytes(8)).'.php';
    register_shutdown_function(static function () use ($script): void {
        @unlink($script);
    });
    if (@file_put_contents($script, base64_decode($question['program'])) === false) {
        $answer(['unwritable' => $folder]);
        exit;
    }
    chmod($script, 0644);
    $tried = $listen();
    foreach ($tried as $address) {
        $done = $request($address, $script);
        if ($done['connected']) {
            $answer(['address' => $address] + $done);
            exit;
        }
    }
    $answer(['tried' => $tried]);
    exit;
}

if (PHP_SAPI !== 'cli' && ! hash_equals($question['token'], (string) ($_SERVER['HTTP_X_SPOTCACHE'] ?? ''))) {
    http_response_code(404);
    exit;
}

if ($question['do'] === 'restore_config') {
    $done = is_file($question['backup']) && rename($question['backup'], $question['cache_file']);
    $answer(['changed' => $done]);
    exit;
}
if ($question['do'] === 'forget') {
    clearstatcache(true);
    // False without opcache, or where it is not allowed; the check that follows sees what that leads to.
    $able = function_exists('opcache_invalidate');
    $answer(['forgotten' => $able && @opcache_invalidate($question['cache_file'], true)]);
    exit;
}
if (! is_file("$path/artisan") || ! is_file("$path/vendor/autoload.php") || ! is_file("$path/bootstrap/app.php")) {
    $answer(['artisan' => false]);
    exit;
}

$overridden = array_values(array_filter(
    $question['names'],
    static fn (string $name): bool => getenv($name) !== false || isset($_SERVER[$name])
));
$cacheElsewhere = static function (string $file): void {
    $_SERVER['APP_CONFIG_CACHE'] = $_ENV['APP_CONFIG_CACHE'] = $file;
    putenv("APP_CONFIG_CACHE=$file");
};
$found = ['artisan' => true, 'sapi' => PHP_SAPI, 'php' => PHP_VERSION, 'overridden' => $overridden];
try {
    chdir($path);
    defined('LARAVEL_START') || define('LARAVEL_START', microtime(true));
    if ($question['env_file'] !== '') {
        $cacheElsewhere('/nonexistent/spotcache.php');
    }
    require "$path/vendor/autoload.php";
    $app = require "$path/bootstrap/app.php";
    if ($question['env_file'] !== '') {
        // Another file beside the one that is in use, wherever a symbolic link has led to that.
        $app->useEnvironmentPath(dirname(realpath($app->environmentFilePath()) ?: $app->environmentFilePath()));
        $app->loadEnvironmentFrom($question['env_file']);
    }
    $found['cache_file'] = $app->getCachedConfigPath();
    if ($question['do'] === 'rebuild_config') {
        umask(027);
        $final = $found['cache_file'];
        $new = dirname($final).'/spotcache-'.bin2hex(random_bytes(8)).'.php';
        register_shutdown_function(static function () use ($new): void {
            @unlink($new);
        });
        $cacheElsewhere($new);
    }
    if (PHP_SAPI === 'cli') {
        $kernel = $app->make(Illuminate\Contracts\Console\Kernel::class);
    } else {
        $app->instance('request', Illuminate\Http\Request::capture());
        $kernel = $app->make(Illuminate\Contracts\Http\Kernel::class);
    }
    $kernel->bootstrap();
    if ($question['do'] === 'rebuild_config') {
        $code = $kernel->call('config:cache');
        if ($code !== 0 || ! is_file($new)) {
            throw new RuntimeException(trim($kernel->output()) ?: 'artisan config:cache ended with '.$code);
        }
        $found['changed'] = ! is_file($final) || file_get_contents($final) !== file_get_contents($new);
        if ($found['changed']) {
            $found['backup'] = "$final.backup";
            @unlink($found['backup']);
            if (is_file($final)) {
                copy($final, $found['backup']);
                chmod($found['backup'], 0600);
            }
            if (! rename($new, $final)) {
                throw new RuntimeException("$final cannot be replaced");
            }
        }
        $answer($found);
        exit;
    }
    if ($question['do'] === 'restart_workers') {
        $found['changed'] = $kernel->call('queue:restart') === 0;
        $answer($found);
        exit;
    }

    $config = $app['config'];
    $file = $app->environmentFilePath();
    $content = is_readable($file) ? file_get_contents($file) : null;
    $found += [
        'laravel' => $app->version(),
        'environment_file' => $file,
        'environment_readable' => $content !== null,
        'environment_digest' => $content === null ? '' : hash_hmac('sha256', $content, $question['token']),
        'config_cached' => $app->configurationIsCached(),
        'prefix' => (string) $config->get('database.redis.options.prefix').$config->get('cache.prefix'),
        'stores' => [],
        'session' => [
            'driver' => $config->get('session.driver'),
            'connection' => $config->get('session.connection'),
            'store_missing' => $config->get('cache.stores.'.($config->get('session.store') ?: 'redis')) === null,
            'store' => $config->get('session.store') ?: 'redis',
        ],
        'connections' => [],
        'errors' => [],
    ];
    foreach ($question['stores'] as $name) {
        $store = $config->get("cache.stores.$name");
        $found['stores'][$name] = $store === null ? null : [
            'driver' => $store['driver'] ?? null,
            'connection' => $store['connection'] ?? 'default',
        ];
    }
    foreach ((array) $config->get('database.redis') as $name => $settings) {
        if (in_array($name, ['client', 'options', 'clusters'], true) || ! is_array($settings)) {
            continue;
        }
        $url = ! empty($settings['url']);
        $settings = (new Illuminate\Support\ConfigurationUrlParser)->parseConfiguration($settings);
        $found['connections'][$name] = [
            'url' => $url,
            'host' => $settings['host'] ?? null,
            'port' => $settings['port'] ?? null,
            'database' => $settings['database'] ?? null,
            // Comparable, and of no use to anybody who does not know the token.
            'password' => hash_hmac('sha256', (string) ($settings['password'] ?? ''), $question['token']),
        ];
    }
    $try = static function (string $what, callable $call) use (&$found, $why): bool {
        try {
            $call();

            return true;
        } catch (Throwable $error) {
            $found['errors'][] = ['what' => $what, 'error' => $why($error)];

            return false;
        }
    };
    if ($question['ping']) {
        $try('the application key', static fn () => $app['encrypter']);
        // What each uses; null stands for a driver without a connection.
        $purposes = ['' => $found['session']] + $found['stores'];
        $connections = array_map(
            static fn (?array $one): ?string =>
                ($one['driver'] ?? '') === 'redis' ? ($one['connection'] ?: 'default') : null,
            $purposes
        );
        // First of all, since what does not answer is waited for: nothing else is asked of it then.
        $silent = [];
        foreach (array_unique(array_filter($connections)) as $name) {
            if (! $try("the connection $name", static fn () => $app['redis']->connection($name)->command('ping', []))) {
                $silent[] = $name;
            }
        }
        foreach (array_keys(array_filter($found['stores'])) as $name) {
            if (in_array($connections[$name], $silent, true)) {
                continue;
            }
            $try("the store $name", static function () use ($app, $name, $question): void {
                $key = 'spotcache:check:'.$question['token'];
                $store = $app['cache']->store($name);
                $store->put($key, $question['token'], 30);
                $back = $store->get($key);
                $store->forget($key);
                if ($back !== $question['token']) {
                    throw new RuntimeException('what was put in did not come back');
                }
            });
        }
        if (! in_array($connections[''], $silent, true)) {
            $try('the sessions', static function () use ($app, $config, $question): void {
                $driver = $config->get('session.driver');
                $handler = $app['session']->driver()->getHandler();
                if ($driver === 'file' && ! is_writable((string) $config->get('session.files'))) {
                    throw new RuntimeException($config->get('session.files').' is not writable');
                }
                if ($driver === 'redis') {
                    // Not a session: a key that no cookie can name, gone at once.
                    $id = 'spotcache-check-'.$question['token'];
                    $handler->write($id, 'x');
                    $back = $handler->read($id);
                    $handler->destroy($id);
                    if ($back !== 'x') {
                        throw new RuntimeException('what was put in did not come back');
                    }
                }
            });
        }
    }
} catch (Throwable $error) {
    $found['failed'] = $why($error);
}
$answer($found);
"""


def script(question: Mapping[str, Any]) -> str:
    """The whole PHP text that asks one question."""
    packed = base64.b64encode(json.dumps(question).encode()).decode()
    return f"<?php\n$question = json_decode(base64_decode('{packed}'), true);\n{PROGRAM}"


def find_answer(output: str, token: str) -> dict[str, Any] | None:
    """The answer in what the program printed; None when it never came to that."""
    for line in output.splitlines():
        start, _blank, packed = line.partition(" ")
        if start == MARK + token:
            found: dict[str, Any] = json.loads(base64.b64decode(packed))
            return found
    return None
