//! The pictures in the documentation.
//!
//! `LOCKGATE_SCREENSHOTS=1 cargo nextest run --test gateway pictures` makes them anew, of a pair
//! with clients, servers and a certificate; without that, the test looks whether they are there.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use crate::harness::browser::{Browser, DESK, PHONE, View};
use crate::harness::lan::{Lan, SERVER, SERVICE, config, pair};
use crate::harness::tls::{Files, Store};
use crate::harness::{Gateway, Server, StopAtEnd, connect, eventually, output_of, unused_address};

const PICTURES: [(&str, View); 3] = [
    ("dashboard-light.png", View { width: 1440, height: 1000, dark: false }),
    ("dashboard-dark.png", View { width: 1440, height: 1000, dark: true }),
    ("dashboard-phone.png", PHONE),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots")
}

/// Answers requests of a few bytes with some thousand.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 512];
    while stream.read(&mut request)? > 0 {
        thread::sleep(Duration::from_millis(15));
        stream.write_all(&[b'.'; 24_000])?;
    }
    Ok(())
}

/// A client that asks a few times.
fn ask(to: SocketAddr, times: usize) -> io::Result<()> {
    let mut stream = connect(to)?;
    for _ in 0..times {
        stream.write_all(&[b'?'; 512])?;
        stream.read_exact(&mut [0; 24_000])?;
        thread::sleep(Duration::from_millis(120));
    }
    Ok(())
}

/// An address on this host that leads to the admin socket of a gateway in a namespace. Threads end
/// with the connections that they are for, the acceptor with the test's process.
fn door(gateway: &Arc<Gateway>) -> SocketAddr {
    let listener = TcpListener::bind(unused_address()).unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever accepts to the end of the process must not keep the gateway until then.
    let gateway = Arc::downgrade(gateway);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Some(Ok(server)) = gateway.upgrade().map(|gateway| gateway.connect_admin()) else {
                return;
            };
            let (mut to, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut from, &mut to));
            let (mut to, mut from) = (client, server);
            thread::spawn(move || io::copy(&mut from, &mut to));
        }
    });
    address
}

fn take_pictures() {
    let lan = Lan::new();
    let server = |name: &str, port| {
        let address = SocketAddr::new(SERVER.into(), port);
        lan.server.run(|| Server::new(name, address, serve))
    };
    let mut shop = [("shop-1", 8001), ("shop-2", 8002), ("shop-3", 8003), ("spare", 8004)]
        .map(|(name, port)| server(name, port));
    let mail = [("mx-1", 2501), ("mx-2", 2502)].map(|(name, port)| server(name, port));
    let files = Store::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gen-certs");
    let made = output_of(Command::new(script).arg(files.path()).arg("shop.example.com"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = Files::in_directory(files.path(), "shop.example.com.ecdsa");
    let check = "health = { type = 'tcp', interval = '1s', fast_interval = '200ms' }";
    let text = [(&shop[0], "max_connections = 500"), (&shop[1], "max_connections = 500")]
        .into_iter()
        .chain([(&shop[2], "weight = 50"), (&shop[3], "backup = true")])
        // For checks to find out, and not clients.
        .fold(
            config().pool(check).pool("passive = { max_fails = 1000 }"),
            |config, (server, lines)| config.backend(server, lines),
        )
        .to_string();
    let backends: String = mail
        .iter()
        .map(|server| {
            let (name, address) = (server.name(), server.address());
            format!("[[pool.mail.backend]]\nname = {name:?}\naddress = \"{address}\"\n")
        })
        .collect();
    let more = format!(
        "[[listener]]\nname = \"https\"\nbind = [\"10.7.0.100:443\"]\nprotocol = \"tls\"\n\
         pool = \"app\"\nmax_connections = 2000\n\
         [listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n\
         [[listener]]\nname = \"smtp\"\nbind = [\"10.7.0.100:25\"]\npool = \"mail\"\n\
         [pool.mail]\nbalance = \"least_connections\"\n{check}\n{backends}",
        certificate.cert, certificate.key
    );
    let pair = pair("track_pools = [{ pool = \"app\", weight = -60 }]");
    let [first, _second] = lan.pair(format!("{text}{more}{pair}"));
    for server in &shop {
        first.await_state(server.name(), "up");
    }
    let first = Arc::new(first);
    let mail_service = SocketAddr::new(SERVICE.ip(), 25);

    let browser = Browser::start(DESK);
    browser.open(&format!("http://{}/", door(&first)));
    browser.await_text("#verdict", "All well");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (number, to) in
            [SERVICE, SERVICE, SERVICE, SERVICE, mail_service].into_iter().enumerate()
        {
            let (lan, stop) = (&lan, &stop);
            scope.spawn(move || {
                lan.client.run(|| {
                    for turn in 1.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        // One that dies has its clients with it.
                        drop(ask(to, 1 + (turn * 7 + number * 3) % 5));
                        thread::sleep(Duration::from_millis((turn as u64 * 37) % 200));
                    }
                });
            });
        }
        thread::sleep(Duration::from_secs(60));
        shop[1].kill();
        browser.await_text("[id='backend/app/shop-2'] .state", "down");
        thread::sleep(Duration::from_secs(15));
        fs::create_dir_all(directory()).unwrap();
        for (name, view) in PICTURES {
            browser.look_with(view);
            eventually("the layout follows", || browser.run("return innerWidth") == view.width);
            thread::sleep(Duration::from_millis(500));
            browser.photograph(&directory().join(name));
        }
    });
}

#[test]
fn pictures_of_the_page_are_in_the_documentation() {
    if env::var_os("LOCKGATE_SCREENSHOTS").is_some() {
        take_pictures();
    }
    for (name, view) in PICTURES {
        let picture = fs::read(directory().join(name)).expect(name);
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"), "{name} is no PNG");
        // Its first part, IHDR, begins with its size.
        let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), (view.width, view.height), "{name}");
        assert!(picture.len() < 300 << 10, "{name} has {} bytes", picture.len());
    }
}
