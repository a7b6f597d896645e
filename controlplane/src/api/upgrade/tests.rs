//! Tests of `api::upgrade`.
#![allow(clippy::unwrap_used)]

use super::*;

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn what_is_asked_for() {
    let spdy = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
    assert_eq!(way(&spdy), Some(Way::Spdy));
    let browser = headers(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "abc"),
    ]);
    assert_eq!(way(&browser), Some(Way::WebSocket { key: "abc".into() }));
    assert!(is_websocket(&browser) && !is_websocket(&spdy));
    for none in [
        headers(&[]),
        headers(&[("upgrade", "SPDY/3.1")]),
        headers(&[("connection", "upgrade"), ("upgrade", "h2c")]),
        // No key, no WebSocket.
        headers(&[("connection", "upgrade"), ("upgrade", "websocket")]),
    ] {
        assert_eq!(way(&none), None);
    }
}

#[test]
fn the_clients_first_known_protocol_is_chosen() {
    let known = [("", 0), ("v4", 4), ("v5", 5)];
    let choose = |offered: &[&str]| {
        let offered: Vec<String> = offered.iter().map(|name| (*name).to_owned()).collect();
        choose(&offered, &known).map(|(_, protocol)| protocol)
    };
    assert_eq!(choose(&["v9", "v5", "v4"]), Some(5));
    assert_eq!(choose(&["v4", "v5"]), Some(4));
    assert_eq!(choose(&[]), Some(0));
    assert_eq!(choose(&["v9"]), None);
    let refused = disagree(&["v9".to_owned()], &known);
    assert_eq!(refused.status(), 403);
    let accepted = refused.headers().get_all(ACCEPTED_PROTOCOLS);
    assert_eq!(accepted.iter().collect::<Vec<_>>(), ["v4", "v5"]);
}
