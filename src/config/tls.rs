//! TLS towards backends: `[pool.NAME.tls]`. It depends on no other section, so it is read to the
//! end here.

use std::path::PathBuf;

use super::address::parse_server_name;
use super::findings::Problem;
use super::plan::{Certificate, PoolTls, Sni};
use super::reader::{Field, Section};
use super::schema::{optional, parse_file};

/// Reads `[pool.NAME.tls]`.
pub(super) fn pool(mut section: Section<'_, '_>) -> PoolTls {
    PoolTls {
        ca: section.parsed("ca", optional(parse_file)).or(None),
        verify: section.flag("verify").or(true),
        sni: section.parsed("sni", parse_sni).or(Sni::Backend),
        client_certificate: client_certificate(&mut section),
    }
}

fn parse_sni(text: &str) -> Result<Sni, Problem> {
    match text {
        "" => Ok(Sni::Backend),
        "client" => Ok(Sni::Client),
        name => parse_server_name(name).map(Sni::Name).map_err(|problem| {
            problem.help("write a host name, \"client\" for the client's, \"\" for the backend's")
        }),
    }
}

/// `client_cert` and `client_key`, which are of no use alone.
fn client_certificate(section: &mut Section<'_, '_>) -> Option<Certificate> {
    let cert = section.parsed("client_cert", optional(parse_file));
    let key = section.parsed("client_key", optional(parse_file));
    needs(section, ("client_cert", &cert), ("client_key", &key));
    needs(section, ("client_key", &key), ("client_cert", &cert));
    Some(Certificate { cert: cert.or(None)?, key: key.or(None)? })
}

/// Reports that `this` names a file and `other` does not.
fn needs(
    section: &mut Section<'_, '_>,
    (this, file): (&str, &Field<Option<PathBuf>>),
    (other, other_file): (&str, &Field<Option<PathBuf>>),
) {
    if file.as_given().is_none_or(|file| file.value.is_none()) {
        return;
    }
    match other_file {
        Field::Absent => {
            let message = format!("'{this}' needs the key '{other}'");
            section.errors.key_missing(section.span, message);
        }
        Field::Given(given) if given.value.is_none() => {
            section
                .errors
                .wrong(given.span, format!("{other}: must not be empty: '{this}' is set"));
        }
        Field::Given(_) | Field::Wrong => {}
    }
}
