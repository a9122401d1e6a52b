//! What an operator does to the gateway, well and badly.

use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::actions::Outcome;
use crate::chance::Chance;
use crate::site::{BACKENDS, Site};

/// Longest wait for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

fn reloads(site: &Site, result: &str) -> io::Result<u64> {
    site.metric(&format!("lockgate_config_reloads_total{{result=\"{result}\"}}"))
}

/// SIGHUP, and what came of it.
fn reload(site: &Site, result: &str) -> io::Result<bool> {
    let before = reloads(site, result)?;
    site.signal(Signal::SIGHUP)?;
    Ok(site.until(PATIENCE, || reloads(site, result).is_ok_and(|count| count > before)))
}

/// Another good configuration.
pub fn good_config(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    site.put_config(&site.config(chance.next() % 100))?;
    Ok(match reload(site, "ok")? {
        true => Outcome::Done,
        false => Outcome::Failed("a good configuration is not taken over".to_owned()),
    })
}

/// A file that is of no use, in one way or another; then a good one again.
pub fn bad_config(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    let (path, good) = (site.config_path(), site.config(chance.next() % 100));
    let what = match chance.within(0, 6) {
        0 => {
            fs::write(&path, &good[..chance.within(1, good.len() / 2)])?;
            "half of a file"
        }
        1 => {
            fs::remove_file(&path)?;
            "no file"
        }
        2 => {
            fs::remove_file(&path)?;
            fs::create_dir(&path)?;
            "a directory"
        }
        3 => {
            fs::remove_file(&path)?;
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            "a pipe"
        }
        4 => {
            fs::write(&path, good.replace("idle_timeout", "idel_timeout"))?;
            "an unknown key"
        }
        _ => {
            let gone = site.files.cert.display().to_string();
            fs::write(&path, good.replace(&gone, "/nowhere/soak.pem"))?;
            "a certificate that is not there"
        }
    };
    let refused = reload(site, "failed")?;
    if path.is_dir() {
        fs::remove_dir(&path)?;
    }
    site.put_config(&good)?;
    Ok(match refused {
        true => Outcome::Done,
        false => Outcome::Failed(format!("{what} instead of a configuration is not refused")),
    })
}

/// SIGHUP after SIGHUP, with files that change meanwhile.
pub fn storm_of_signals(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    for _ in 0..chance.within(10, 40) {
        site.put_config(&site.config(chance.next() % 100))?;
        site.signal(Signal::SIGHUP)?;
        thread::sleep(chance.millis(0, 40));
    }
    good_config(site, chance)
}

/// The certificate is renewed, and is in use soon after.
pub fn renew(site: &Site, _chance: &mut Chance) -> io::Result<Outcome> {
    let renewed = || site.metric("lockgate_tls_certificate_renewals_total{result=\"ok\"}");
    let before = renewed()?;
    site.files.write(&site.issue());
    Ok(match site.until(PATIENCE, || renewed().is_ok_and(|count| count > before)) {
        true => Outcome::Done,
        false => Outcome::Failed("a renewed certificate is not taken over".to_owned()),
    })
}

/// The certificate is overwritten with what is none; the old one stays in use. Then a good one.
pub fn break_certificate(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    let refused = || site.metric("lockgate_tls_certificate_renewals_total{result=\"failed\"}");
    let before = refused()?;
    fs::write(&site.files.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    let told = site.until(PATIENCE, || refused().is_ok_and(|count| count > before));
    let after = renew(site, chance)?;
    Ok(match told {
        true => after,
        false => Outcome::Failed("a broken certificate is not refused".to_owned()),
    })
}

/// Many ask at once, and some do not take the answer, or do not finish the question.
pub fn scrapes(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    let mut rude = Vec::new();
    for _ in 0..chance.within(10, 50) {
        let mut stream = site.connect_admin()?;
        let said: &[u8] = chance.one_of(&[
            b"GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n".as_slice(),
            b"GET /v1/events HTTP/1.1\r\nHost: soak\r\n\r\n",
            b"GET /v1/sta",
            b"\x16\x03\x01\x00\x05hello",
        ]);
        stream.write_all(said)?;
        rude.push(stream);
    }
    let failures = thread::scope(|scope| {
        let asking = (0..8).map(|number| {
            let path = ["/metrics", "/v1/status", "/readyz", "/healthz"][number % 4];
            scope.spawn(move || match site.ask("GET", path) {
                Ok((200, _)) => None,
                // No backend may be usable for a moment.
                Ok((503, _)) if path == "/readyz" => None,
                other => Some(format!("{path}: {other:?}")),
            })
        });
        let asking: Vec<_> = asking.collect();
        let answers = asking.into_iter().map(|thread| thread.join().expect("it only asks"));
        answers.flatten().collect::<Vec<_>>()
    });
    Ok(match failures.first() {
        None => Outcome::Done,
        Some(failure) => Outcome::Failed(failure.clone()),
    })
}

/// Takes a backend out by the API, and puts it back.
pub fn drain(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    let state = chance.one_of(&["draining", "disabled"]);
    let pause = chance.millis(200, 2_000);
    change(site, chance, &format!("{{\"state\": \"{state}\"}}"), "{\"state\": \"enabled\"}", pause)
}

/// Changes the weight of a backend by the API, and back.
pub fn weigh(site: &Site, chance: &mut Chance) -> io::Result<Outcome> {
    let (weight, pause) = (chance.within(0, 200), chance.millis(200, 2_000));
    change(site, chance, &format!("{{\"weight\": {weight}}}"), "{\"weight\": 100}", pause)
}

fn change(
    site: &Site,
    chance: &mut Chance,
    there: &str,
    back: &str,
    pause: Duration,
) -> io::Result<Outcome> {
    let pool = chance.one_of(&["plain", "sealed", "passed"]);
    // The last one is not in every configuration.
    let path = format!("/v1/pools/{pool}/backends/b{}", chance.within(1, BACKENDS));
    for body in [there, back] {
        match site.post(&path, body)? {
            (200, _) => {}
            (404 | 405 | 501, _) => return Ok(Outcome::unsupported()),
            (status, said) => {
                return Ok(Outcome::Failed(format!("POST {path} {body}: {status} {said}")));
            }
        }
        thread::sleep(pause);
    }
    Ok(Outcome::Done)
}

/// Starts the binary anew, which takes over.
pub fn upgrade(site: &Site, _chance: &mut Chance) -> io::Result<Outcome> {
    let before = site.status()?["pid"].clone();
    if before.is_null() {
        return Ok(Outcome::unsupported());
    }
    match site.post("/v1/upgrade", "")? {
        (200, _) => {}
        (404 | 405 | 501, _) => return Ok(Outcome::unsupported()),
        (status, said) => {
            return Ok(Outcome::Failed(format!("POST /v1/upgrade: {status} {said}")));
        }
    }
    let mut pid = None;
    site.until(PATIENCE, || {
        pid = site.status().ok().map(|status| status["pid"].clone()).filter(|pid| *pid != before);
        pid.is_some()
    });
    match pid.and_then(|pid| pid.as_u64()) {
        Some(pid) => site.upgraded(pid as u32),
        None => return Ok(Outcome::Failed("the upgraded process does not answer".to_owned())),
    }
    Ok(Outcome::Done)
}
