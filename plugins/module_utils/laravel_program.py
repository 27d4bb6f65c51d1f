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
if ($question['do'] === 'grammar') {
    // What phpdotenv's versions do not agree about, tried out, since a version's number tells less than that.
    $reads = static function (string $text, array $expected): bool {
        try {
            return is_callable(['Dotenv\\Dotenv', 'parse']) && Dotenv\Dotenv::parse($text) === $expected;
        } catch (Throwable $error) {
            return false;
        }
    };
    require "$path/vendor/autoload.php";
    $answer(['artisan' => true, 'grammar' => array_keys(array_filter([
        'multiline' => $reads("A=\"x\ny=\"\nB=1\n", ['A' => "x\ny=", 'B' => '1']),
        'unicode' => $reads("\u{c9}=1\n", ["\u{c9}" => '1']),
        'comments' => $reads("# A=\"\nB=1\n", ['B' => '1']),
    ]))]);
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
    $given = [];
    if ($question['do'] === 'keys') {
        // Every key that the configuration reads gets a number of its own, and shows itself wherever it arrives.
        // APP_ENV and the like choose other files or ways, and stay what they are.
        require "$path/vendor/autoload.php";
        $framework = (new ReflectionClass(Illuminate\Foundation\Application::class))->getFileName();
        $framework = dirname($framework, 4).'/config';
        foreach (['cache', 'database', 'session', 'queue', 'broadcasting'] as $part) {
            foreach (["$path/config/$part.php", "$framework/$part.php"] as $file) {
                $text = is_readable($file) ? (string) file_get_contents($file) : '';
                $calls = '/\b(?:env|Env::get)\(\s*[\'"]((?!APP_|REDIS_CLIENT)[A-Za-z_][A-Za-z0-9_]*)[\'"]/';
                preg_match_all($calls, $text, $matches);
                foreach ($matches[1] as $name) {
                    $given[$name] = $given[$name] ?? (string) (910000 + count($given));
                }
            }
        }
        foreach ($given as $name => $value) {
            $_SERVER[$name] = $_ENV[$name] = $value;
            putenv("$name=$value");
        }
    }
    if ($question['env_file'] !== '' || $question['uncached']) {
        $cacheElsewhere('/nonexistent/spotcache.php');
    }
    require_once "$path/vendor/autoload.php";
    $app = require "$path/bootstrap/app.php";
    if ($question['env_file'] !== '') {
        // Another file beside the one that is in use, wherever a symbolic link has led to that.
        $app->useEnvironmentPath(dirname(realpath($app->environmentFilePath()) ?: $app->environmentFilePath()));
        $app->loadEnvironmentFrom($question['env_file']);
    }
    $found['cache_file'] = $app->getCachedConfigPath();
    if ($question['do'] === 'cache_file') {
        $file = $found['cache_file'];
        $user = is_file($file) && function_exists('posix_getpwuid') ? posix_getpwuid((int) fileowner($file)) : false;
        $answer($found + [
            'config_cached' => $app->configurationIsCached(),
            'cache_owner' => ! is_file($file) ? '' : sprintf(
                '%s %04o',
                $user['name'] ?? fileowner($file),
                fileperms($file) & 07777
            ),
        ]);
        exit;
    }
    if ($question['do'] === 'rebuild_config') {
        umask(077);
        // Put in place by who asks, since whoever deploys may not be who serves, and the file is to stay as it is.
        $folder = is_writable("$path/storage/framework") ? "$path/storage/framework" : sys_get_temp_dir();
        $new = "$folder/spotcache-".bin2hex(random_bytes(8)).'.php';
        register_shutdown_function(static function () use ($new): void {
            @unlink($new);
        });
        $cacheElsewhere($new);
    }
    if ($question['do'] === 'keys') {
        $app->bootstrapWith([
            Illuminate\Foundation\Bootstrap\LoadEnvironmentVariables::class,
            Illuminate\Foundation\Bootstrap\LoadConfiguration::class,
        ]);
        $names = array_flip($given);
        $found['keys'] = [];
        foreach (['cache', 'database.redis', 'session', 'queue', 'broadcasting'] as $part) {
            foreach (Illuminate\Support\Arr::dot((array) $app['config']->get($part)) as $where => $value) {
                if (is_scalar($value) && isset($names[(string) $value])) {
                    $found['keys']["$part.$where"] = $names[(string) $value];
                }
            }
        }
        $answer($found);
        exit;
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
        $found['cache_file'] = realpath($found['cache_file']) ?: $found['cache_file'];
        $found['content'] = base64_encode((string) file_get_contents($new));
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
        'client' => $client = (string) $config->get('database.redis.client', 'phpredis'),
        // phpredis is given a user and a password as one list, the only way that Laravel before 9.6 has for it.
        'username_key' => $named = $client !== 'phpredis' || version_compare($app->version(), '9.6.0', '>='),
        'prefix' => [
            'redis' => (string) $config->get('database.redis.options.prefix'),
            'cache' => (string) $config->get('cache.prefix'),
        ],
        'default_store' => (string) $config->get('cache.default'),
        'stores' => [],
        'flushes_locks' => method_exists(Illuminate\Cache\RedisStore::class, 'flushLocks'),
        'session' => [
            'driver' => (string) $config->get('session.driver'),
            'connection' => (string) $config->get('session.connection'),
            'store' => (string) $config->get('session.store'),
        ],
        'queue' => ['default' => (string) $config->get('queue.default'), 'connections' => []],
        'broadcast' => ['default' => (string) $config->get('broadcasting.default'), 'connections' => []],
        'horizon' => $config->get('horizon') === null ? '' : (string) $config->get('horizon.use', 'default'),
        'clusters' => array_keys((array) $config->get('database.redis.clusters')),
        'connections' => [],
        'errors' => [],
    ];
    foreach ((array) $config->get('cache.stores') as $name => $store) {
        $found['stores'][$name] = [
            'driver' => $store['driver'] ?? null,
            'connection' => $store['connection'] ?? 'default',
            'lock_connection' => $store['lock_connection'] ?? $store['connection'] ?? 'default',
        ];
    }
    foreach (['queue' => 'queue', 'broadcast' => 'broadcasting'] as $what => $part) {
        foreach ((array) $config->get("$part.connections") as $name => $one) {
            $found[$what]['connections'][$name] = [
                'driver' => $one['driver'] ?? null,
                'connection' => ($one['driver'] ?? null) === 'redis' ? ($one['connection'] ?? 'default') : null,
            ];
        }
    }
    foreach ((array) $config->get('database.redis') as $name => $settings) {
        if (in_array($name, ['client', 'options', 'clusters'], true) || ! is_array($settings)) {
            continue;
        }
        $read = static function (array $settings) use ($question, $named): array {
            $password = $settings['password'] ?? '';
            $user = $named ? $settings['username'] ?? '' : '';
            $login = is_array($password) ? array_values($password) : [$user, $password];
            $host = (string) ($settings['host'] ?? '');
            $scheme = $settings['scheme'] ?? $settings['driver'] ?? 'tcp';
            if (preg_match('~^(tls|tcp)://(.*)$~', $host, $parts)) {
                [, $scheme, $host] = $parts;
            }

            return [
                'host' => $host,
                'port' => $settings['port'] ?? null,
                'database' => $settings['database'] ?? 0,
                'username' => (string) $login[0],
                'tls' => in_array(strtolower((string) $scheme), ['tls', 'rediss', 'ssl'], true),
                // Comparable, and of no use to anybody who does not know the token.
                'password' => hash_hmac('sha256', (string) end($login), $question['token']),
            ];
        };
        $parsed = (new Illuminate\Support\ConfigurationUrlParser)->parseConfiguration($settings);
        $found['connections'][$name] = $read($parsed) + [
            'url' => ! empty($settings['url']),
            // What is left when the URL is gone.
            'own' => $read(array_diff_key($settings, ['url' => true])),
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
    // As Redis has it, without the prefix that Laravel's connections put before a key.
    $raw = static function (string $name, string ...$words) use ($app) {
        $client = $app['redis']->connection($name)->client();

        return $client instanceof Redis ? $client->rawCommand(...$words) : $client->executeRaw($words);
    };
    if ($question['ping']) {
        $try('the application key', static fn () => $app['encrypter']);
        $driver = $found['session']['driver'];
        $connections = [];
        foreach ($question['stores'] as $name) {
            $store = $found['stores'][$name] ?? null;
            $connections[$name] = ($store['driver'] ?? '') === 'redis' ? $store['connection'] : null;
        }
        $sessions = $driver === 'redis' ? ($found['session']['connection'] ?: 'default') : null;
        // First of all, since what does not answer is waited for: nothing else is asked of it then.
        $silent = [];
        $all = array_merge(array_values($connections), [$sessions], $question['connections']);
        foreach (array_unique(array_filter($all)) as $name) {
            if (! $try("the connection $name", static fn () => $app['redis']->connection($name)->command('ping', []))) {
                $silent[] = $name;
            }
        }
        foreach ($connections as $name => $connection) {
            if (in_array($connection, $silent, true) || ! isset($found['stores'][$name])) {
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
        // Not a session of anybody's: one that no cookie can name, gone in the end.
        $id = 'spotcache-check-'.$question['token'];
        $handler = null;
        if (! in_array($sessions, $silent, true)) {
            $try('the sessions', static function () use ($app, $config, $driver, $id, &$handler): void {
                if ($driver === 'file' && ! is_writable((string) $config->get('session.files'))) {
                    throw new RuntimeException($config->get('session.files').' is not writable');
                }
                $made = $app['session']->driver()->getHandler();
                if ($driver === 'redis') {
                    $handler = $made;
                    $handler->write($id, 'x');
                    if ($handler->read($id) !== 'x') {
                        throw new RuntimeException('what was put in did not come back');
                    }
                }
            });
        }
        // Clearing a cache empties the database that its connection has selected: nothing may lie there that must
        // outlive that.
        // Among the keys that a user of Redis may touch who is held to the application's own.
        $marker = $found['prefix']['redis'].'spotcache:marker:'.$question['token'];
        foreach (array_diff($question['kept'], $silent) as $kept) {
            $try("the connection $kept", static fn () => $raw($kept, 'SET', $marker, 'x', 'EX', '60'));
        }
        $cleared = [];
        foreach ($question['kept'] === [] ? [] : $found['stores'] as $name => $store) {
            if ($store['driver'] !== 'redis' || in_array($store['connection'], $silent, true)) {
                continue;
            }
            // A store that is not in use may be on a connection that nothing is known of.
            if (! array_key_exists($name, $connections) && ! in_array($store['connection'], $connections, true)) {
                continue;
            }
            $on = $store['connection'];
            $try("clearing the store $name", static function () use ($app, $raw, $name, $on, $marker, &$cleared): void {
                if ((int) $raw($on, 'EXISTS', $marker) === 1) {
                    throw new RuntimeException('it would empty the database in which sessions or jobs are as well');
                }
                // Really cleared only where there is nothing to lose.
                if ((int) $raw($on, 'DBSIZE') === 0) {
                    try {
                        $app['cache']->store($name)->flush();
                        $cleared[] = $name;
                    } catch (Throwable $error) {
                        // Whoever may not clear a cache cannot reach anything else by that.
                        if (strpos($error->getMessage(), 'NOPERM') !== 0) {
                            throw $error;
                        }
                    }
                }
            });
        }
        foreach (array_diff($question['kept'], $silent) as $kept) {
            $try("what is kept on the connection $kept", static function () use ($raw, $kept, $marker): void {
                if ((int) $raw($kept, 'EXISTS', $marker) !== 1) {
                    throw new RuntimeException('it did not outlive the clearing of a cache');
                }
                $raw($kept, 'DEL', $marker);
            });
        }
        if ($handler !== null) {
            $try('the sessions', static function () use ($handler, $id): void {
                $back = $handler->read($id);
                $handler->destroy($id);
                if ($back !== 'x') {
                    throw new RuntimeException('a session did not outlive the clearing of a cache');
                }
            });
        }
        $found['cleared'] = $cleared;
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
