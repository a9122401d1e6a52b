//! What lockgate has no need of, and what it cannot do, by the words of nginx.

use super::super::ledger::{Kind, Ledger};
use super::super::tree::Node;

const NO_HTTP: &str = "lockgate relays TCP and does not see requests";
const OWN_LOG: &str = "lockgate writes a record of each connection; see [log]";
const TUNED: &str = "lockgate sizes its own buffers, caches and queues";
const OWN_TLS: &str = "lockgate has TLS of its own, with current defaults";

/// Says what is known of a directive that nobody has said anything of, and of all that is in it.
pub(super) fn account(node: &Node, ledger: &mut Ledger) {
    if !ledger.is_accounted_for(node.id)
        && let Some((kind, why)) = verdict(node.name())
    {
        match kind {
            Kind::Needless => ledger.needless(node.id, why),
            _ => ledger.lost(node.id, why),
        }
    }
    for child in node.children() {
        account(child, ledger);
    }
}

fn verdict(name: &str) -> Option<(Kind, &'static str)> {
    use Kind::{Lost, Needless};
    Some(match name {
        "user" | "pid" | "daemon" | "master_process" | "worker_priority" | "working_directory"
        | "lock_file" | "env" | "debug_points" | "worker_rlimit_core" => {
            (Needless, "the service manager sees to this")
        }
        "worker_rlimit_nofile" => (Needless, "the limit of open files is raised to its hard limit"),
        "worker_cpu_affinity" => (Needless, "each worker has a core of its own; see [runtime]"),
        "load_module"
        | "thread_pool"
        | "pcre_jit"
        | "timer_resolution"
        | "ssl_engine"
        | "accept_mutex"
        | "accept_mutex_delay"
        | "multi_accept"
        | "use"
        | "debug_connection"
        | "worker_aio_requests"
        | "events" => (Needless, TUNED),
        "access_log"
        | "error_log"
        | "log_format"
        | "open_log_file_cache"
        | "log_subrequest"
        | "log_not_found" => (Needless, OWN_LOG),
        "zone"
        | "preread_buffer_size"
        | "proxy_buffer_size"
        | "tcp_nodelay"
        | "tcp_nopush"
        | "sendfile"
        | "sendfile_max_chunk"
        | "variables_hash_bucket_size"
        | "variables_hash_max_size"
        | "map_hash_bucket_size"
        | "map_hash_max_size"
        | "server_names_hash_bucket_size"
        | "server_names_hash_max_size"
        | "types_hash_max_size"
        | "types_hash_bucket_size"
        | "proxy_buffering"
        | "proxy_buffers"
        | "proxy_busy_buffers_size"
        | "client_body_buffer_size"
        | "client_header_buffer_size"
        | "large_client_header_buffers"
        | "aio"
        | "directio"
        | "output_buffers"
        | "postpone_output"
        | "ntlm"
        | "proxy_max_temp_file_size"
        | "proxy_temp_file_write_size"
        | "proxy_temp_path"
        | "client_body_temp_path"
        | "fastcgi_temp_path"
        | "uwsgi_temp_path"
        | "scgi_temp_path"
        | "open_file_cache"
        | "open_file_cache_valid"
        | "open_file_cache_min_uses"
        | "open_file_cache_errors"
        | "server_tokens"
        | "keepalive_disable"
        | "connection_pool_size"
        | "request_pool_size"
        | "subrequest_output_buffer_size"
        | "limit_conn_log_level"
        | "limit_conn_status" => (Needless, TUNED),
        "worker_connections" => {
            (Needless, "max_connections follows from the limit of open files; see [runtime]")
        }
        "proxy_socket_keepalive" => (Needless, "connections to backends have TCP keepalive"),
        "proxy_half_close" => {
            (Needless, "a side that has sent FIN is still answered, up to half_close_timeout")
        }
        "reset_timedout_connection" => (Needless, "what a timeout ends is reset"),
        "lingering_close" | "lingering_time" | "lingering_timeout" => (Lost, NO_HTTP),
        "state" => (Lost, "servers of a state file are not read: write them into the pool"),
        "resolver" => (
            Lost,
            "names are resolved by the system's resolver, again when their TTL ends: see that \
             /etc/resolv.conf names servers that know them",
        ),
        "resolver_timeout" => (Needless, "names are resolved beside traffic, which never waits"),
        "keepalive" | "keepalive_requests" | "keepalive_time" => {
            (Needless, "each client has a connection of its own to its backend")
        }
        "ssl_session_cache"
        | "ssl_session_timeout"
        | "ssl_prefer_server_ciphers"
        | "ssl_dhparam"
        | "ssl_buffer_size"
        | "proxy_ssl_session_reuse"
        | "proxy_ssl_server_name"
        | "proxy_ssl_verify_depth"
        | "ssl_verify_depth" => (Needless, OWN_TLS),
        "ssl_ecdh_curve"
        | "ssl_conf_command"
        | "proxy_ssl_protocols"
        | "proxy_ssl_ciphers"
        | "proxy_ssl_conf_command" => (Lost, "lockgate's defaults hold"),
        "ssl_early_data" => {
            (Lost, "early data is not accepted: these clients take one round trip more")
        }
        "ssl_trusted_certificate" => {
            (Lost, "clients are verified by client_ca alone: add its certificates there")
        }
        "ssl_session_ticket_key" => (Lost, "set pair.secret_file: ticket keys derive from it"),
        "ssl_stapling"
        | "ssl_stapling_verify"
        | "ssl_stapling_responder"
        | "ssl_ocsp"
        | "ssl_ocsp_cache"
        | "ssl_ocsp_responder" => {
            (Lost, "lockgate staples a file and asks nobody: see ocsp in [listener.tls]")
        }
        "ssl_password_file" => (Lost, "keys are not encrypted; `openssl pkey` decrypts them"),
        "proxy_download_rate" | "proxy_upload_rate" | "limit_rate" | "limit_rate_after" => {
            (Lost, "a connection is as fast as its two sides are")
        }
        "proxy_requests" | "proxy_responses" => (Lost, "lockgate does not relay UDP yet"),
        "proxy_next_upstream_timeout" => {
            (Lost, "attempts are bounded by their number (retries) and connect_timeout")
        }
        "js_include" | "js_import" | "js_access" | "js_filter" | "js_preread" | "js_set"
        | "js_path" | "lua_package_path" | "perl" | "perl_modules" => {
            (Lost, "there are no extensions")
        }
        "split_clients" => (Lost, "shares are weights of backends in a pool"),
        "geo" | "map" | "set" => (Lost, "no listener that is carried over asks for it"),
        "mail" | "imap_capabilities" | "pop3_capabilities" | "smtp_capabilities" | "auth_http" => {
            (Lost, "lockgate does not speak mail protocols; a stream with the same ports would do")
        }
        "status_zone" | "api" | "stub_status" | "status" => {
            (Lost, "lockgate's own dashboard and metrics are at admin.http")
        }
        "sticky" | "sticky_cookie_insert" => (
            Lost,
            "lockgate sees no cookies; balance = \"source_hash\" keeps a client at its backend",
        ),
        "limit_conn_zone" | "limit_req_zone" => {
            (Lost, "no listener that is carried over asks for it")
        }
        "set_real_ip_from" | "real_ip_header" | "real_ip_recursive" => {
            (Needless, "the address in a PROXY header is the client's, everywhere")
        }
        "types"
        | "default_type"
        | "charset"
        | "etag"
        | "expires"
        | "index"
        | "autoindex"
        | "root"
        | "alias"
        | "try_files"
        | "error_page"
        | "if"
        | "rewrite"
        | "return"
        | "location"
        | "server_name"
        | "server_name_in_redirect"
        | "port_in_redirect"
        | "absolute_redirect"
        | "recursive_error_pages"
        | "internal"
        | "break"
        | "rewrite_log"
        | "ssi"
        | "gzip_static"
        | "uwsgi_pass"
        | "client_max_body_size"
        | "client_header_timeout"
        | "client_body_timeout"
        | "send_timeout"
        | "keepalive_timeout"
        | "ignore_invalid_headers"
        | "merge_slashes"
        | "underscores_in_headers"
        | "if_modified_since"
        | "chunked_transfer_encoding"
        | "http2"
        | "http3"
        | "limit_except"
        | "mirror"
        | "sub_filter"
        | "sub_filter_once"
        | "upgrade"
        | "satisfy"
        | "max_ranges"
        | "msie_padding"
        | "proxy_http_version" => (Lost, NO_HTTP),
        name if [
            "proxy_",
            "fastcgi_",
            "uwsgi_",
            "scgi_",
            "grpc_",
            "gzip",
            "add_header",
            "more_",
            "http2_",
            "http3_",
            "brotli",
            "memcached_",
            "userid",
            "dav_",
            "mp4",
            "flv",
            "ssi_",
            "image_filter",
            "geoip",
            "expires",
            "charset_",
            "add_trailer",
            "auth_",
            "limit_req",
            "modsecurity",
            "pagespeed",
            "quic_",
            "opentracing",
            "otel_",
            "proxy_ssl_",
            "zstd",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix)) =>
        {
            (Lost, NO_HTTP)
        }
        _ => return None,
    })
}
