//! TLS on both sides: `[listener.tls]`, towards clients, and `[pool.NAME.tls]`, towards backends.
//! Neither depends on another section, so both are read to the end here.

use std::collections::HashMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::address::parse_server_name;
use super::cipher;
use super::findings::{Problem, Span, Spanned, quote};
use super::plan::{Certificate, CipherSuite, ClientAuth, PoolTls, ServerTls, Sni, TlsVersion};
use super::reader::{Field, Section};
use super::schema::{optional, parse_file};
use super::value::{choose, mismatch, text};
use super::vocabulary as known;

/// Most certificates of a listener: all are loaded, and looked through when a name is sought.
const MOST_CERTIFICATES: usize = 10_000;

/// Most protocols in a list for ALPN; a client offers a handful.
pub(super) const MOST_PROTOCOLS: usize = 64;

/// Reads `[listener.tls]`.
pub(super) fn listener(mut section: Section<'_, '_>) -> ServerTls {
    let certificates = certificates(&mut section);
    let (min_version, ciphers) = versions(&mut section);
    ServerTls {
        certificates,
        strict_sni: section.flag("strict_sni").or(false),
        min_version,
        ciphers,
        alpn: section.distinct("alpn", MOST_PROTOCOLS, parse_alpn).or(Vec::new()),
        client_auth: client_auth(&mut section),
        ocsp: section.parsed("ocsp", optional(parse_file)).or(None),
        tickets: section.flag("tickets").or(true),
        require_close_notify: section.flag("require_close_notify").or(false),
    }
}

fn certificates(section: &mut Section<'_, '_>) -> Vec<Certificate> {
    const HELP: &str = "write certificates = [{ cert = \"fullchain.pem\", key = \"privkey.pem\" }]";
    let listed = match section.sections("certificates", &known::CERTIFICATE, certificate) {
        Field::Given(listed) => listed,
        Field::Absent => {
            let message = "this listener has no certificates";
            section
                .errors
                .key_missing(section.span, message)
                .help(format!("{HELP} in [listener.tls]"));
            return Vec::new();
        }
        Field::Wrong => return Vec::new(),
    };
    let count = listed.value.len();
    if count == 0 {
        section.errors.wrong(listed.span, "certificates: must not be empty").help(HELP);
    }
    if count > MOST_CERTIFICATES {
        let message = format!("certificates: {count} are more than {MOST_CERTIFICATES}");
        section.errors.wrong(listed.span, message);
        return Vec::new();
    }
    let mut first: HashMap<PathBuf, Span> = HashMap::new();
    let mut certificates = Vec::with_capacity(count);
    for (cert, key) in listed.value.into_iter().flatten() {
        if let Some(&first) = first.get(&cert.value) {
            let shown = quote(&cert.value.display().to_string());
            section.errors.clash(cert.span, format!("cert: {shown} is already listed"), first);
            continue;
        }
        first.insert(cert.value.clone(), cert.span);
        certificates.push(Certificate { cert: cert.value, key });
    }
    certificates
}

/// `None` unless both files are there.
fn certificate(mut section: Section<'_, '_>) -> Option<(Spanned<PathBuf>, PathBuf)> {
    let cert = section.parsed("cert", parse_file);
    let key = section.parsed("key", parse_file);
    for (name, is_absent) in [("cert", cert.is_absent()), ("key", key.is_absent())] {
        if is_absent {
            section.errors.key_missing(section.span, format!("this certificate has no '{name}'"));
        }
    }
    Some((cert.given()?, key.value()?))
}

/// `min_version` and `ciphers`, which must have something in common.
fn versions(section: &mut Section<'_, '_>) -> (TlsVersion, Vec<CipherSuite>) {
    let version = section.read("min_version", parse_version);
    let ciphers = section.distinct("ciphers", cipher::COUNT, cipher::parse);
    if let (Some(version), Some(ciphers)) = (version.as_given(), ciphers.as_given()) {
        let is_usable = |suite: &CipherSuite| suite.version() >= version.value;
        if !ciphers.value.is_empty() && !ciphers.value.iter().any(is_usable) {
            let message =
                format!("ciphers: none of them is of TLS {}, the min_version", version.value);
            section
                .errors
                .clash(ciphers.span, message, version.span)
                .help("add one whose name begins with TLS_AES_ or TLS_CHACHA20_");
        }
    }
    (version.or(TlsVersion::Tls12), ciphers.or(Vec::new()))
}

fn parse_version(value: &DeValue<'_>) -> Result<TlsVersion, Problem> {
    if let DeValue::Float(number) = value {
        let help = format!("write \"{}\"", number.as_str());
        return Err(mismatch("text in quotes", value).help(help));
    }
    choose(text(value)?, &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)])
}

/// A protocol's name for ALPN: 1 to 255 bytes (RFC 7301, section 3.1).
pub(super) fn parse_alpn(text: &str) -> Result<String, Problem> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        0 => Err(Problem::new("the name of a protocol must not be empty")),
        length => {
            Err(Problem::new(format!("the name of a protocol has at most 255 bytes, not {length}")))
        }
    }
}

/// `client_auth`, and the files that belong to it.
fn client_auth(section: &mut Section<'_, '_>) -> Option<ClientAuth> {
    let wishes = [("none", None), ("optional", Some(false)), ("required", Some(true))];
    let wish = section.choice("client_auth", &wishes);
    let ca = section.parsed("client_ca", optional(parse_file));
    let crl = section.parsed("client_crl", optional(parse_file));
    // Of a wish that cannot be read nobody knows what belongs to it.
    if matches!(wish, Field::Wrong) {
        return None;
    }
    let Some(required) = wish.or(None) else {
        for (key, file) in [("client_ca", ca), ("client_crl", crl)] {
            if let Some(Spanned { value: Some(_), span }) = file.given() {
                section
                    .errors
                    .wrong(span, format!("{key}: of no use: client_auth is \"none\""))
                    .help("write client_auth = \"optional\" or \"required\"");
            }
        }
        return None;
    };
    let word = if required { "required" } else { "optional" };
    match &ca {
        Field::Absent => {
            let message = format!("client_auth \"{word}\" needs the key 'client_ca'");
            section.errors.key_missing(section.span, message);
        }
        Field::Given(Spanned { value: None, span }) => {
            let message = format!("client_ca: must not be empty: client_auth is \"{word}\"");
            section.errors.wrong(*span, message);
        }
        Field::Given(_) | Field::Wrong => {}
    }
    Some(ClientAuth { required, ca: ca.or(None)?, crl: crl.or(None) })
}

/// Reads `[pool.NAME.tls]`.
pub(super) fn pool(mut section: Section<'_, '_>) -> PoolTls {
    PoolTls {
        ca: section.parsed("ca", optional(parse_file)).or(None),
        verify: section.flag("verify").or(true),
        sni: section.parsed("sni", parse_sni).or(Sni::Backend),
        client_certificate: client_certificate(&mut section),
        require_close_notify: section.flag("require_close_notify").or(false),
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
