//! What can be read, and the rest of the program does not act on yet.
//!
//! [`take_out`] reports each such key and takes it out of the file before it is read: nothing is
//! accepted and ignored, and nothing more is said about what is refused anyway. When the program
//! learns to act on a key, its word here goes; with the last of them, this module.

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, quote};

/// Keys of the file.
pub(super) const FILE: &[&str] = &["pair"];

/// Keys of `[[listener]]`.
pub(super) const LISTENER: &[&str] = &["client_timeout", "tls", "route", "acme_dir", "acme_pool"];

/// Values of `protocol` in `[[listener]]`.
const PROTOCOLS: &[&str] = &["tls", "tls_passthrough", "redirect"];

/// Keys of `[pool.NAME]`.
pub(super) const POOL: &[&str] = &["tls"];

/// Reports and removes what is not built yet.
pub(super) fn take_out(file: &mut DeTable<'_>, errors: &mut Findings) {
    take_keys_out(file, FILE, errors);
    match file.get_mut("listener").map(|listeners| listeners.get_mut()) {
        Some(DeValue::Table(listener)) => take_out_of_listener(listener, errors),
        Some(DeValue::Array(listeners)) => {
            for listener in listeners.iter_mut() {
                if let DeValue::Table(listener) = listener.get_mut() {
                    take_out_of_listener(listener, errors);
                }
            }
        }
        _ => {}
    }
    if let Some(DeValue::Table(pools)) = file.get_mut("pool").map(|pools| pools.get_mut()) {
        for (_, pool) in pools.iter_mut() {
            if let DeValue::Table(pool) = pool.get_mut() {
                take_keys_out(pool, POOL, errors);
            }
        }
    }
}

fn take_out_of_listener(listener: &mut DeTable<'_>, errors: &mut Findings) {
    take_keys_out(listener, LISTENER, errors);
    let Some(written) = listener.get("protocol") else { return };
    if let Some(word) = written.get_ref().as_str().filter(|word| PROTOCOLS.contains(word)) {
        let message = format!("protocol: {} is not supported yet", quote(word));
        errors.wrong(written.span().into(), message);
        listener.remove("protocol");
    }
}

fn take_keys_out(section: &mut DeTable<'_>, keys: &[&str], errors: &mut Findings) {
    for key in keys {
        if let Some((written, _)) = section.remove_entry(*key) {
            errors.wrong(written.span().into(), format!("{} is not supported yet", quote(key)));
        }
    }
}
