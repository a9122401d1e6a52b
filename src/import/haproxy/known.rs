//! What lockgate has no need of, and what it cannot do, by the words of HAProxy.

use super::super::ledger::Kind;

/// What stands behind a directive, and its reason.
type Verdict = (Kind, &'static str);

const NO_HTTP: &str = "lockgate relays TCP and does not see requests";
const OWN_LOG: &str = "lockgate writes a record of each connection; see [log]";
const ALWAYS: &str = "lockgate does this anyway";
const TUNED: &str = "lockgate sizes its own buffers, caches and queues";
const TLS_DEFAULTS: &str = "lockgate's defaults hold";
const SYSTEMD: &str = "the service manager sees to this";
const BY_SYSTEM: &str = "names are resolved by the system's resolver, again when their TTL ends";
const NO_POOLING: &str = "each client has a connection of its own to its backend";

/// What a line of `global` amounts to that has no counterpart.
pub(super) fn global(words: &[&str]) -> Option<Verdict> {
    use Kind::{Lost, Needless};
    Some(match words {
        [
            "daemon" | "user" | "group" | "uid" | "gid" | "chroot" | "pidfile" | "master-worker",
            ..,
        ] => (Needless, SYSTEMD),
        ["ulimit-n" | "fd-hard-limit" | "strict-limits", ..] => {
            (Needless, "the limit of open files is raised to its hard limit")
        }
        ["stats", ..] => {
            (Needless, "the admin socket is [admin] socket, for the lockgate commands")
        }
        ["log" | "log-send-hostname" | "log-tag", ..] => (Needless, OWN_LOG),
        [
            "cpu-map" | "cpu-policy" | "thread-groups" | "thread-group" | "numa-cpu-mapping"
            | "thread-hard-limit",
            ..,
        ] => (Needless, "each worker has a core of its own; see [runtime]"),
        ["nbproc", ..] => (Needless, "one process has a thread for each core"),
        ["ssl-dh-param-file" | "tune.ssl.default-dh-param", ..] => {
            (Needless, "no suite with finite-field Diffie-Hellman is offered")
        }
        [
            "ssl-default-server-options"
            | "ssl-default-server-ciphers"
            | "ssl-default-server-ciphersuites"
            | "ssl-default-server-curves"
            | "ssl-default-bind-curves"
            | "ssl-default-bind-sigalgs"
            | "ssl-default-server-sigalgs"
            | "ssl-security-level",
            ..,
        ] => (Lost, TLS_DEFAULTS),
        [
            "ssl-engine"
            | "ssl-mode-async"
            | "ssl-provider"
            | "ssl-provider-path"
            | "ssl-propquery"
            | "ssl-load-extra-files"
            | "ssl-load-extra-del-ext"
            | "ssl-server-verify"
            | "ssl-skip-self-issued-ca",
            ..,
        ] => (Needless, "it is about OpenSSL, which lockgate does not use"),
        ["issuers-chain-path", ..] => {
            (Lost, "a certificate's file has to hold the certificates of its issuers as well")
        }
        [
            "maxconnrate" | "maxsslrate" | "maxsslconn" | "maxsessrate" | "maxpipes"
            | "maxcompcpuusage" | "maxcomprate",
            ..,
        ] => (
            Lost,
            "there is no such limit for the whole process; see [listener.limit] and max_connections",
        ),
        [
            "lua-load"
            | "lua-load-per-thread"
            | "lua-prepend-path"
            | "lua-prepend-lib-path"
            | "module-load"
            | "wurfl-data-file"
            | "deviceatlas-json-file"
            | "51degrees-data-file",
            ..,
        ] => (Lost, "there are no extensions"),
        ["external-check" | "insecure-fork-wanted" | "insecure-setuid-wanted", ..] => {
            (Lost, "no programs are run for checks; see [pool.NAME.health]")
        }
        ["server-state-base" | "server-state-file", ..] => {
            (Needless, "what an operator has set is kept in runtime.state_dir")
        }
        [
            "localpeer"
            | "node"
            | "description"
            | "unix-bind"
            | "quiet"
            | "debug"
            | "zero-warning"
            | "set-dumpable"
            | "presetenv"
            | "setenv"
            | "unsetenv"
            | "resetenv"
            | "busy-polling"
            | "spread-checks"
            | "max-spread-checks"
            | "default-path"
            | "hard-stop-after"
            | "grace"
            | "close-spread-time"
            | "h1-case-adjust"
            | "h1-case-adjust-file"
            | "expose-experimental-directives"
            | "expose-deprecated-directives"
            | "anonkey"
            | "prealloc-fd"
            | "limited-quic"
            | "no-quic"
            | "cluster-secret"
            | "harden.reject-privileged-ports.tcp"
            | "mworker-max-reloads"
            | "pp2-never-send-local"
            | "httpclient.ssl.verify"
            | "httpclient.resolvers.id"
            | "set-var"
            | "set-var-fmt"
            | "setcap"
            | "shm-stats-file"
            | "warn-blocked-traffic-after"
            | "force-cfg-parser-pause",
            ..,
        ] => (Needless, "it has no counterpart, and needs none"),
        [
            "noepoll" | "nokqueue" | "noevports" | "nopoll" | "nosplice" | "nogetaddrinfo"
            | "noreuseport" | "profiling.tasks" | "profiling.memory",
            ..,
        ] => (Needless, TUNED),
        [first, ..] if first.starts_with("tune.") => (Needless, TUNED),
        ["no", rest @ ..] => return global(rest),
        _ => return None,
    })
}

/// What a line of a proxy amounts to that has no counterpart.
pub(super) fn proxy(words: &[&str]) -> Option<Verdict> {
    use Kind::{Lost, Needless};
    Some(match words {
        ["redirect", "scheme", "https", ..]
        | ["http-request", "redirect", "scheme", "https", ..] => {
            (Lost, "a redirect to HTTPS is a listener of its own: protocol = \"redirect\"")
        }
        ["no", "option", ..] | ["no", "log"] => (Needless, "what is turned off is not there"),
        ["option", name, ..] => return option(name),
        ["timeout", name, ..] if timeout(name).is_some() => return timeout(name),
        [
            "log" | "log-format" | "log-format-sd" | "log-tag" | "error-log-format" | "log-steps",
            ..,
        ] => (Needless, OWN_LOG),
        ["description" | "id" | "guid" | "grace" | "dispatch-description", ..] => {
            (Needless, "it has no counterpart, and needs none")
        }
        ["backlog", ..] => (Needless, "the system's net.core.somaxconn is used in full"),
        ["enabled"] => (Needless, ALWAYS),
        ["fullconn", ..] => {
            (Lost, "the maximum of a backend does not change with the load; set max_connections")
        }
        ["hash-balance-factor" | "hash-preserve-affinity", ..] => {
            (Lost, "source_hash does not look at the load; see max_connections")
        }
        ["hash-type", ..] => (Needless, "source_hash is consistent anyway (Maglev)"),
        ["load-server-state-from-file" | "server-state-file-name", ..] => {
            (Needless, "what an operator has set is kept in runtime.state_dir")
        }
        [
            "errorfile" | "errorfiles" | "errorloc" | "errorloc302" | "errorloc303" | "http-error",
            ..,
        ] => (Lost, "lockgate answers no request, so it has no pages for errors"),
        ["stats", ..] => (Lost, "lockgate's own dashboard and metrics are at admin.http"),
        ["monitor-uri" | "monitor", ..] => (Lost, "ask admin.http for /healthz or /readyz"),
        ["cookie" | "appsession" | "dynamic-cookie-key", ..] => (
            Lost,
            "lockgate sees no cookies; balance = \"source_hash\" keeps a client at its backend",
        ),
        ["rate-limit", ..] => {
            (Lost, "there is no limit for all clients together; see [listener.limit]")
        }
        [
            "http-request"
            | "http-response"
            | "http-after-response"
            | "reqadd"
            | "reqrep"
            | "reqirep"
            | "reqdel"
            | "rspadd"
            | "rspdel"
            | "rsprep"
            | "rspirep"
            | "reqideny"
            | "reqpass"
            | "unique-id-format"
            | "unique-id-header"
            | "http-reuse"
            | "http-send-name-header"
            | "compression"
            | "capture"
            | "declare"
            | "max-keep-alive-queue"
            | "filter"
            | "ignore-persist"
            | "force-persist"
            | "use-fcgi-app"
            | "redirect"
            | "retry-on"
            | "clitimeout"
            | "srvtimeout"
            | "contimeout"
            | "max-session-srv-conns"
            | "http-client"
            | "quic-initial",
            ..,
        ] => (Lost, NO_HTTP),
        ["email-alert", ..] => {
            (Lost, "alerts belong to what reads the metrics; see config/prometheus")
        }
        ["external-check", ..] => (Lost, "no programs are run for checks; see [pool.NAME.health]"),
        ["use-server", ..] => (Lost, "a rule chooses a pool, not a backend of one"),
        ["stick" | "persist" | "stick-table", ..] => (
            Lost,
            "lockgate keeps no tables; balance = \"source_hash\" keeps a client at its backend",
        ),
        ["tcp-response", ..] => (Lost, "lockgate does not look at what backends say"),
        [
            "timeout" | "retries" | "balance" | "source" | "default-server" | "http-check"
            | "tcp-check" | "maxconn" | "default_backend" | "use_backend" | "acl" | "tcp-request",
            ..,
        ] => (Lost, "nothing that is carried over has a use for it"),
        ["transparent" | "dispatch", ..] => (Lost, "connections go to the backends of a pool"),
        _ => return None,
    })
}

fn option(name: &str) -> Option<Verdict> {
    use Kind::{Lost, Needless};
    Some(match name {
        "tcplog"
        | "httplog"
        | "httpslog"
        | "dontlognull"
        | "dontlog-normal"
        | "logasap"
        | "log-separate-errors"
        | "log-health-checks"
        | "socket-stats"
        | "contstats"
        | "clitlog"
        | "error-log-format" => (Needless, OWN_LOG),
        "tcpka" | "clitcpka" | "srvtcpka" | "redispatch" | "tcp-smart-accept"
        | "tcp-smart-connect" | "splice-auto" | "splice-request" | "splice-response" => {
            (Needless, ALWAYS)
        }
        "abortonclose" => (
            Lost,
            "a client that is queued and has sent FIN keeps its place; one that resets loses it",
        ),
        "independent-streams" => (Lost, "idle_timeout looks at both directions together"),
        "idle-close-on-response" => (Lost, NO_HTTP),
        "checkcache" | "forwardfor" | "forwarded" | "originalto" => {
            (Lost, "lockgate writes no headers; send_proxy tells a backend who the client is")
        }
        "http-server-close"
        | "httpclose"
        | "forceclose"
        | "http-keep-alive"
        | "http-tunnel"
        | "http-pretend-keepalive"
        | "http-buffer-request"
        | "http-ignore-probes"
        | "http-no-delay"
        | "http-use-htx"
        | "http-use-proxy-header"
        | "accept-invalid-http-request"
        | "accept-invalid-http-response"
        | "accept-unsafe-violations-in-http-request"
        | "accept-unsafe-violations-in-http-response"
        | "disable-h2-upgrade"
        | "http-restrict-req-hdr-names"
        | "http-drop-request-trailers"
        | "http-drop-response-trailers"
        | "h1-case-adjust-bogus-client"
        | "h1-case-adjust-bogus-server"
        | "prefer-last-server"
        | "http_proxy" => (Lost, "lockgate relays TCP and does not see requests"),
        "nolinger" => (Lost, "connections end as their two sides end them"),
        "persist" | "transparent" | "srvtcpka-cnt" => (Lost, "lockgate does not know it"),
        "external-check" => (Lost, "no programs are run for checks; see [pool.NAME.health]"),
        "httpchk" | "tcp-check" | "ssl-hello-chk" | "redis-check" | "smtpchk" | "mysql-check"
        | "pgsql-check" | "ldap-check" | "spop-check" | "allbackups" => {
            (Needless, "no server that is carried over is checked, or a backup")
        }
        "rdp-cookie" => (Lost, "lockgate does not look into RDP"),
        _ => return None,
    })
}

fn timeout(name: &str) -> Option<Verdict> {
    Some(match name {
        "http-request" | "http-keep-alive" | "tarpit" => (
            Kind::Lost,
            "lockgate relays TCP and does not see requests; idle_timeout ends what is silent",
        ),
        "server-fin" => (Kind::Needless, "half_close_timeout holds for both sides"),
        _ => return None,
    })
}

/// What a word of a `bind` line amounts to that has no counterpart.
pub(super) fn bind(word: &str) -> Option<Verdict> {
    use Kind::{Lost, Needless};
    Some(match word {
        "transparent" => (Needless, "addresses that are not on this host can be bound anyway"),
        "nice" | "process" | "thread" | "shards" => {
            (Needless, "each worker has a socket of its own for each address")
        }
        "backlog" => (Needless, "the system's net.core.somaxconn is used in full"),
        "defer-accept" => (Needless, "what a client sends is waited for after it is accepted"),
        "tfo" | "mss" | "tcp-md5sig" | "cc" => {
            (Lost, "listening sockets have no such option; see tcp(7) for the system's own")
        }
        "id" | "no-ca-names" | "severity-output" | "guid-prefix" => {
            (Needless, "it has no counterpart, and needs none")
        }
        "npn" => (Needless, "ALPN has taken its place"),
        "idle-ping" => (Lost, NO_HTTP),
        "uid" | "gid" | "user" | "group" | "mode" | "level" | "expose-fd" => {
            (Lost, "lockgate listens on TCP only")
        }
        "no-sslv3"
        | "no-tlsv10"
        | "no-tlsv11"
        | "prefer-client-ciphers"
        | "no-alpn"
        | "default-crt" => (Needless, "TLS 1.2 and 1.3 are spoken, as lockgate's defaults have it"),
        "curves" | "ecdhe" | "sigalgs" | "client-sigalgs" => (Lost, TLS_DEFAULTS),
        "ca-sign-file" | "ca-sign-pass" | "generate-certificates" => {
            (Lost, "certificates are files; none are made")
        }
        "allow-0rtt" => {
            (Lost, "early data is not accepted: these clients take one round trip more")
        }
        "ocsp-update" => (Lost, "no responder is asked: see ocsp in [listener.tls]"),
        "tls-ticket-keys" => (Lost, "set pair.secret_file: ticket keys derive from it"),
        "crt-ignore-err" | "ca-ignore-err" | "ca-verify-file" | "verifyhost" => {
            (Lost, "a client's certificate is verified in full")
        }
        "proto" | "quic-force-retry" | "no-quic-reset" | "quic-socket" | "quic-cc-algo" => {
            (Lost, "lockgate relays TCP and does not see requests")
        }
        _ => return None,
    })
}

/// What a word of a `server` line amounts to that has no counterpart.
pub(super) fn server(word: &str) -> Option<Verdict> {
    use Kind::{Lost, Needless};
    Some(match word {
        "init-addr" => (Needless, BY_SYSTEM),
        "resolvers" => (Needless, "see what is said of its section"),
        "resolve-prefer" | "resolve-net" | "resolve-opts" => {
            (Lost, "all addresses of a name are used, in the order of RFC 6724")
        }
        "pool-max-conn" | "pool-purge-delay" | "pool-low-conn" | "max-reuse" | "pool-conn-name" => {
            (Needless, NO_POOLING)
        }
        "ciphers" | "ciphersuites" | "curves" | "sigalgs" | "check-alpn" => (Lost, TLS_DEFAULTS),
        "tfo" | "cc" => (Lost, "connections to backends have no such option"),
        "hash-key" => (Lost, "source_hash places a backend by its name"),
        "id"
        | "guid"
        | "enabled"
        | "stick"
        | "non-stick"
        | "no-backup"
        | "no-check"
        | "no-check-ssl"
        | "no-send-proxy"
        | "no-send-proxy-v2"
        | "no-ssl"
        | "no-verifyhost"
        | "no-tls-tickets"
        | "no-ssl-reuse"
        | "ssl-reuse"
        | "log-proto"
        | "no-sslv3"
        | "no-tlsv10"
        | "no-tlsv11"
        | "check-reuse-pool"
        | "strict-maxconn"
        | "no-check-send-proxy"
        | "no-tfo"
        | "no-sslv3-check"
        | "idle-ping" => (Needless, "it has no counterpart, and needs none"),
        "ssl-min-ver" | "ssl-max-ver" | "force-tlsv12" | "force-tlsv13" | "no-tlsv12"
        | "no-tlsv13" | "force-sslv3" | "force-tlsv10" | "force-tlsv11" => {
            (Lost, "TLS 1.2 and 1.3 are spoken to backends")
        }
        "cookie"
        | "redir"
        | "proto"
        | "check-proto"
        | "alpn"
        | "npn"
        | "ws"
        | "set-proxy-v2-tlv-fmt"
        | "no-alpn" => (Lost, "lockgate relays TCP and does not see requests"),
        "minconn" | "maxqueue" => {
            (Lost, "there is max_connections for a backend, and queue_timeout for its pool")
        }
        "agent-check" | "agent-port" | "agent-inter" | "agent-addr" | "agent-send" => (
            Lost,
            "there is no agent; `lockgate weight` and `lockgate drain` change a backend while it runs",
        ),
        "on-marked-down" => (Lost, "on_down has reset and keep"),
        "on-marked-up" => (Lost, "connections to backup backends are left alone"),
        "track" => (Lost, "each pool has checks of its own"),
        "on-error" => (Lost, "see [pool.NAME.passive]"),
        "namespace" | "socks4" | "check-via-socks4" | "usesrc" | "interface" | "mark" | "tos" => {
            (Lost, "backends are reached directly, by the system's routes")
        }
        "crl-file" => (Lost, "revocation lists are not looked at for backends"),
        "check-send-proxy" => (Lost, "checks are made without a PROXY header"),
        _ => return None,
    })
}
