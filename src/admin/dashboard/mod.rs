//! The dashboard: one page at `/` of the admin server, with what it consists of under `/assets/`.
//!
//! [`super::serve`] merges [`router`] into its own. The page is in the binary and needs nothing from
//! anywhere else: it asks this server for `/v1/status` once a second, and listens to `/v1/events`.
//!
//! The page must never run, load or send to what is not part of it. Names and causes come from
//! configurations and from the network, so the browser is told to execute no code but the scripts
//! below, and to let no script turn text into markup (`require-trusted-types-for`).

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do: load its own scripts, style and icon, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct File {
    /// Path on this server.
    path: &'static str,
    /// Media type.
    kind: &'static str,
    /// What is in it.
    content: &'static str,
}

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        File {
            path: concat!("/assets/", $name),
            kind: $kind,
            content: include_str!(concat!("assets/", $name)),
        }
    };
}

static FILES: [File; 13] = [
    File { path: "/", kind: HTML, content: include_str!("assets/index.html") },
    asset!("style.css", CSS),
    asset!("icon.svg", SVG),
    asset!("theme.js", SCRIPT),
    asset!("main.js", SCRIPT),
    asset!("words.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("rates.js", SCRIPT),
    asset!("table.js", SCRIPT),
    asset!("columns.js", SCRIPT),
    asset!("verdict.js", SCRIPT),
    asset!("events.js", SCRIPT),
    asset!("poll.js", SCRIPT),
];

/// One tag for all files, because they fit together: that of a file changes when any of them does.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let all: String = FILES.iter().map(|file| file.content).collect();
    let digest = digest(&SHA256, all.as_bytes());
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
});

/// Serves `/` and the files of the page, whatever the state of the router that it is merged into.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        router
            .route(file.path, get(move |headers: HeaderMap| async move { answer(file, &headers) }))
    })
}

/// A file, or that the browser has it already.
fn answer(file: &File, asked: &HeaderMap) -> Response {
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == *TAG);
    // Asked for again each time, so that a page is never made of two versions.
    let headers: [(HeaderName, &str); 9] = [
        (CACHE_CONTROL, "no-cache"),
        (ETAG, &TAG),
        (CONTENT_TYPE, file.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    match is_known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, file.content).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules that import each other are loaded by their paths: one that is not served, or served
    /// and not loaded, is a page that does not work, or weight.
    #[test]
    fn every_file_is_served_and_used() {
        let served: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard/assets");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != "index.html" {
                assert!(served.contains(&&*format!("/assets/{name}")), "{name} is not served");
                assert!(FILES[0].content.contains(&format!("\"assets/{name}\"")), "{name}");
            }
        }
    }

    /// What the policy of the page stands on.
    #[test]
    fn no_script_makes_markup_or_code_of_text_and_no_file_names_another_host() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
            "DOMParser",
            "javascript:",
            "@import",
            "style=",
            "onclick=",
            "onload=",
        ];
        for file in &FILES {
            for word in forbidden {
                assert!(!file.content.contains(word), "{} has {word}", file.path);
            }
            // The name of a namespace is not an address.
            let text = file.content.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{} names another host", file.path);
        }
    }

    #[test]
    fn a_browser_that_has_the_page_is_told_so() {
        let ask = |tags: &str| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tags.parse().unwrap())]);
            answer(&FILES[0], &headers).status()
        };
        assert_eq!(ask(&TAG), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(&format!("\"other\", {}", *TAG)), StatusCode::NOT_MODIFIED);
        assert_eq!(ask("\"other\""), StatusCode::OK);
    }
}
