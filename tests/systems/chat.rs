//! config/examples/django-channels.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Host, Service, python, state};
use crate::harness::eventually;

const NAME: &str = "chat.example.com";

/// A member of the chat, which says what it is told to on standard input, and prints what it hears.
const MEMBER: &str = r#"
import asyncio, ssl, sys, websockets

async def main():
    context = ssl.create_default_context(cafile=sys.argv[1])
    async with websockets.connect(
        "wss://chat.example.com/ws/chat/lobby/", ssl=context, host="127.0.0.1", port=443,
        origin="https://chat.example.com", local_addr=(sys.argv[2], 0),
    ) as socket:
        async def hear():
            async for text in socket:
                print(text, flush=True)
        hearing = asyncio.create_task(hear())
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await socket.send(line)
        hearing.cancel()

asyncio.run(main())
"#;

struct Member {
    process: Service,
    hears: mpsc::Receiver<String>,
}

impl Member {
    fn join(host: &Host, address: &str) -> Self {
        let (python, file, ca) = (python("python"), host.path("member.py"), host.path("ca.pem"));
        std::fs::write(&file, MEMBER).unwrap();
        let words = [python.as_str(), file.to_str().unwrap(), ca.to_str().unwrap(), address];
        let mut command = host.command(&words);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (line, hears) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|heard| line.send(heard)));
        Self { process: Service(child), hears }
    }

    fn hear(&mut self) -> serde_json::Value {
        let line = self.hears.recv_timeout(Duration::from_secs(30)).expect("something is said");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn say(&mut self, text: &str) {
        let said = serde_json::json!({ "text": text });
        writeln!(self.process.0.stdin.as_mut().unwrap(), "{said}").unwrap();
    }
}

#[test]
fn a_chat_goes_on_through_a_reload_and_an_upgrade() {
    let host = Host::new("django-channels");
    host.certify(NAME, &host.authority.issue(&[NAME]));
    let _redis = host.start(&["redis-server", "--bind", "127.0.0.1", "--save", ""], &[]);
    host.await_port(6379);
    let daphne = python("daphne");
    let _daphnes: Vec<Service> = (1..)
        .zip([8001, 8002])
        .map(|(number, port)| {
            let endpoint = format!("haproxy:tcp:port={port}:interface=127.0.0.1");
            let words = [daphne.as_str(), "-e", &endpoint, "chat.asgi:application"];
            host.start(&words, &[("INSTANCE", &format!("daphne-{number}"))])
        })
        .collect();
    [8001, 8002].into_iter().for_each(|port| host.await_port(port));
    let mut gateway = host.gateway();
    for backend in ["daphne-1", "daphne-2"] {
        eventually("the Daphnes are up", || state(&gateway, "chat", backend) == "up");
    }

    // The same client comes to the same Daphne; enough clients come to both.
    let addresses: Vec<String> = (1..=8).map(|n| format!("203.0.113.{n}")).collect();
    let mut instances = Vec::new();
    let mut members = Vec::new();
    for address in &addresses {
        host.namespace.ip(&format!("addr add {address}/32 dev lo"));
        let mut member = Member::join(&host, address);
        let welcome = member.hear();
        assert_eq!(welcome["you"], **address);
        instances.push(welcome["instance"].as_str().unwrap().to_owned());
        members.push(member);
    }
    assert!(instances.iter().any(|instance| *instance != instances[0]), "{instances:?}");
    for (address, instance) in addresses.iter().zip(&instances) {
        assert_eq!(Member::join(&host, address).hear()["instance"], **instance, "sticky");
    }
    let talk = |members: &mut [Member], text: &str| {
        members[0].say(text);
        for member in members {
            assert_eq!(member.hear()["text"], text);
        }
    };
    talk(&mut members, "before");
    // Longer than the channel layer waits at a time.
    thread::sleep(Duration::from_secs(7));
    talk(&mut members, "after a silence");
    gateway.reload(host.config());
    talk(&mut members, "after a reload");
    gateway.upgrade();
    talk(&mut members, "after an upgrade");
    assert_eq!(
        Member::join(&host, &addresses[0]).hear()["instance"],
        *instances[0],
        "still sticky"
    );
}
