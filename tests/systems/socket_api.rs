//! config/examples/wss-analytics.

use std::path::Path;

use super::{Host, Service, python, state};
use crate::harness::{eventually, output_of};

const NAME: &str = "analytics.test";

/// Subscribes, pings, and is silent for a while on a socket of its own.
const CLIENT: &str = r#"
import asyncio, json, ssl, sys, websockets

async def connect(path):
    context = ssl.create_default_context(cafile=sys.argv[2])
    return await websockets.connect(
        "wss://analytics.test" + path, ssl=context, host="127.0.0.1", port=443, ping_interval=None)

async def main():
    silent = await connect("/ws/echo")
    async with await connect("/ws/series/orders?interval=0.02") as stream:
        for number in range(1, 101):
            value = json.loads(await stream.recv())
            assert value["number"] == number, value
    pong = await silent.ping()
    await asyncio.wait_for(pong, 10)
    for text in ["x", "y" * 70_000, "\u00e4\u20ac"]:
        await silent.send(text)
        assert await asyncio.wait_for(silent.recv(), 10) == text
    await silent.close()
    print("ok")

asyncio.run(main())
"#;

#[test]
fn rest_and_websockets_and_what_a_person_sees_from_outside() {
    let host = Host::new("wss-analytics");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (certs, smoke) = (host.path("certs"), root.join("scripts/smoke"));
    let made = host.run(&[
        root.join("scripts/gen-certs").to_str().unwrap(),
        certs.to_str().unwrap(),
        NAME,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let uvicorn = python("uvicorn");
    let _services: Vec<Service> = [("api-1", "9001"), ("api-2", "9002")]
        .into_iter()
        .map(|(instance, port)| {
            let words = [uvicorn.as_str(), "app:app", "--host", "127.0.0.1", "--port", port];
            host.start(&words, &[("INSTANCE", instance)])
        })
        .collect();
    [9001, 9002].into_iter().for_each(|port| host.await_port(port));
    let gateway = host.gateway();
    for backend in ["api-1", "api-2"] {
        eventually("the services are up", || state(&gateway, "api", backend) == "up");
    }

    let ca = certs.join("ca.pem");
    assert_eq!(host.client(CLIENT, &[ca.to_str().unwrap()]).trim(), "ok");

    // The line of the README.
    let smoke = |url: &str, arguments: &[&str]| {
        let mut words = vec![smoke.to_str().unwrap(), url, "--connect", "127.0.0.1"];
        words.extend(["--ca", ca.to_str().unwrap()]);
        words.extend(arguments);
        let output = output_of(&mut host.command(&words));
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let all = [
        "--health",
        "/healthz",
        "--websocket",
        "/ws/echo",
        "--header",
        "strict-transport-security",
    ];
    let url = format!("https://{NAME}");
    let (code, said) = smoke(&url, &all);
    assert_eq!((code, said.matches("  ok  ").count()), (Some(0), 8), "{said}");

    // It can fail, too: each of its checks.
    let wrong =
        ["--health", "/none", "--websocket", "/ws/none", "--header", "x-none", "--redirect", "443"];
    let (code, said) = smoke(&url, &wrong);
    assert_eq!((code, said.matches("FAILED").count()), (Some(1), 4), "{said}");
    let (code, said) = smoke(&url, &["--certificate-only", "--days", "91"]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = smoke("https://elsewhere.test", &["--certificate-only"]);
    assert!(code == Some(1) && said.contains("FAILED  certificate"), "{said}");
    assert_eq!(smoke("http://plain.test", &[]).0, Some(64));
}
