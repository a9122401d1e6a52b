//! What each proxy is told: its configuration file, with the settings that measured best for it.
//!
//! All of them: one listener, round robin over the backends, timeouts as for a service with long
//! connections, no access log, no health checks.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::json;

use crate::tls::Tls;

/// Debian builds nginx's stream module as a loadable one; others build it in.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What a configuration says beside a proxy's own settings.
pub struct Setup<'a> {
    /// Where it may leave files.
    pub directory: &'a Path,
    pub listen: SocketAddr,
    pub backends: &'a [SocketAddr],
    /// Threads, or processes, that relay.
    pub workers: usize,
    /// The listener's certificate, if it is to end TLS.
    pub tls: Option<&'a Files>,
}

/// Where a certificate and its key are.
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    pub fn write(directory: &Path, tls: &Tls) -> io::Result<Self> {
        // HAProxy looks for the key under this name.
        let files = Self {
            certificate: directory.join("certificate.pem"),
            key: directory.join("certificate.pem.key"),
        };
        fs::write(&files.certificate, &tls.certificate)?;
        fs::write(&files.key, &tls.key)?;
        Ok(files)
    }
}

/// One worker unless asked for more, which are left to the scheduler: the rig pins the process.
pub fn lockgate(setup: &Setup<'_>) -> String {
    let Setup { directory, listen, backends, workers, tls } = setup;
    let mut config = format!(
        "[runtime]\n\
         workers = {workers}\n\
         pin = false\n\
         [admin]\n\
         socket = \"{}/admin.sock\"\n\
         http = \"\"\n\
         [log]\n\
         level = \"warn\"\n\
         access = false\n\
         [[listener]]\n\
         name = \"rig\"\n\
         bind = [\"{listen}\"]\n\
         pool = \"rig\"\n",
        directory.display()
    );
    if let Some(Files { certificate, key }) = tls {
        let _ = write!(
            config,
            "protocol = \"tls\"\n\
             [listener.tls]\n\
             certificates = [{{ cert = \"{}\", key = \"{}\" }}]\n",
            certificate.display(),
            key.display()
        );
    }
    config.push_str("[pool.rig]\n");
    for backend in *backends {
        let _ = write!(config, "[[pool.rig.backend]]\naddress = \"{backend}\"\n");
    }
    config
}

/// See [`crate::floor::ARGUMENT`].
pub fn floor(setup: &Setup<'_>) -> String {
    let mut config = format!("{}\n", setup.listen);
    for backend in setup.backends {
        let _ = writeln!(config, "{backend}");
    }
    config
}

pub fn haproxy(splice: bool, setup: &Setup<'_>) -> String {
    let Setup { listen, backends, workers, tls, .. } = setup;
    let (pipes, options) = if splice {
        ("tune.pipesize 131072\n", "option splice-request\noption splice-response\n")
    } else {
        ("", "")
    };
    // Its session cache stays on: it costs next to nothing. Keys for tickets it makes itself.
    let (ending, ssl) = match tls {
        Some(Files { certificate, .. }) => (
            "ssl-default-bind-options ssl-min-ver TLSv1.2\ntune.bufsize 65536\n",
            format!(" ssl crt {}", certificate.display()),
        ),
        None => ("", String::new()),
    };
    // `strict-limits` would refuse to start where this process may not open two files per
    // connection of `maxconn`. The rig opens fewer.
    let mut config = format!(
        "global\n\
         nbthread {workers}\n\
         maxconn 10000\n\
         no strict-limits\n\
         {pipes}\
         {ending}\
         defaults\n\
         mode tcp\n\
         timeout connect 5s\n\
         timeout client 1h\n\
         timeout server 1h\n\
         {options}\
         listen rig\n\
         bind {listen}{ssl}\n\
         balance roundrobin\n"
    );
    for (index, backend) in backends.iter().enumerate() {
        let _ = writeln!(config, "server backend{index} {backend}");
    }
    config
}

pub fn nginx(setup: &Setup<'_>) -> String {
    let Setup { directory, listen, backends, workers, tls } = setup;
    let load = if Path::new(NGINX_STREAM_MODULE).exists() {
        format!("load_module {NGINX_STREAM_MODULE};\n")
    } else {
        String::new()
    };
    // Without a master, the process that is started is the one that works. Several workers need
    // one, and listeners of their own: otherwise one of them takes nearly all connections.
    let (master, listener) = if *workers == 1 { ("off", "") } else { ("on", " reuseport") };
    // Its session cache would be work on top of the tickets.
    let (ssl, certificate) = match tls {
        Some(Files { certificate, key }) => (
            " ssl",
            format!(
                "ssl_certificate {};\n\
                 ssl_certificate_key {};\n\
                 ssl_protocols TLSv1.2 TLSv1.3;\n\
                 ssl_session_tickets on;\n",
                certificate.display(),
                key.display()
            ),
        ),
        None => ("", String::new()),
    };
    let mut config = format!(
        "{load}\
         daemon off;\n\
         master_process {master};\n\
         worker_processes {workers};\n\
         error_log stderr warn;\n\
         pid {}/nginx.pid;\n\
         events {{ worker_connections 20000; }}\n\
         stream {{\n\
         server {{\n\
         listen {listen}{ssl} backlog=4096{listener};\n\
         {certificate}\
         proxy_pass rig;\n\
         proxy_buffer_size 128k;\n\
         proxy_connect_timeout 5s;\n\
         proxy_timeout 1h;\n\
         access_log off;\n\
         }}\n\
         upstream rig {{\n",
        directory.display()
    );
    for backend in *backends {
        let _ = writeln!(config, "server {backend};");
    }
    config.push_str("}\n}\n");
    config
}

/// No statistics, no administration. The limits of a cluster, 1024 connections unless said
/// otherwise, are out of the way.
pub fn envoy(setup: &Setup<'_>) -> String {
    let address = |address: &SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let endpoints: Vec<_> = setup
        .backends
        .iter()
        .map(|backend| json!({"endpoint": {"address": address(backend)}}))
        .collect();
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/\
                envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "rig",
            "cluster": "rig",
            "idle_timeout": "3600s",
        },
    }]});
    if let Some(Files { certificate, key }) = setup.tls {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/\
                    envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificates": [{
                        "certificate_chain": {"filename": certificate},
                        "private_key": {"filename": key},
                    }],
                },
            },
        });
    }
    const LIMIT: u32 = 1_000_000;
    let config = json!({
        "stats_config": {"stats_matcher": {"reject_all": true}},
        "static_resources": {
            "listeners": [{
                "name": "rig",
                "address": address(&setup.listen),
                "tcp_backlog_size": 4096,
                "filter_chains": [chain],
            }],
            "clusters": [{
                "name": "rig",
                "type": "STATIC",
                "lb_policy": "ROUND_ROBIN",
                "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": LIMIT,
                    "max_pending_requests": LIMIT,
                }]},
                "load_assignment": {
                    "cluster_name": "rig",
                    "endpoints": [{"lb_endpoints": endpoints}],
                },
            }],
        },
    });
    config.to_string()
}
