//! What operators do to a running gateway, by command and by API.

mod api;
mod draining;
mod explaining;
mod handing_over;
mod keeping;
mod openapi;
mod reloading;

use std::io::{Read, Write};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Gateway, PATIENCE, lockgate, output_of};

/// Orders something over the unix socket. Returns the status and the JSON of the answer.
fn order(gateway: &Gateway, method: &str, path: &str, body: &str) -> (u16, Value) {
    let stream = gateway.connect_admin().unwrap();
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    order_over(stream, method, path, body)
}

/// The same over any stream.
fn order_over(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A body too large is refused before all of it is sent.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let json = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    (status, json)
}

/// Runs a command against a gateway. Returns its exit code, standard output and standard error.
pub fn run(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(lockgate());
    command.args(arguments).arg("-c").arg(gateway.config_path());
    let output = output_of(&mut command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// The same for a command that is to succeed. Returns its standard output.
#[track_caller]
pub fn done(gateway: &Gateway, arguments: &[&str]) -> String {
    let (code, out, err) = run(gateway, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}
