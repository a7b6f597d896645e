//! Names as people write them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::Reference;

const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn normalized(text: &str) -> String {
    Reference::parse(text).unwrap().to_string()
}

#[test]
fn defaults_are_filled_in() {
    for (given, expected) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("library/nginx", "docker.io/library/nginx:latest"),
        ("bitnami/redis:7", "docker.io/bitnami/redis:7"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x/y:t", "localhost:5000/x/y:t"),
        ("127.0.0.1:5000/echo", "127.0.0.1:5000/echo:latest"),
        ("[::1]:5000/echo:2", "[::1]:5000/echo:2"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest"),
        ("Host/x", "Host/x:latest"),
    ] {
        assert_eq!(normalized(given), expected, "{given}");
    }
    let by_digest = format!("nginx@sha256:{HEX}");
    assert_eq!(
        normalized(&by_digest),
        format!("docker.io/library/nginx@sha256:{HEX}")
    );
    let both = format!("quay.io/a/b:t@sha256:{HEX}");
    assert_eq!(normalized(&both), both);
}

#[test]
fn nonsense_is_refused_with_the_reason() {
    for text in [
        "",
        " ",
        "Nginx",
        "nginx:",
        "nginx:a b",
        ":tag",
        "/x",
        "x/",
        "x//y",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "nginx@sha256:12",
        "nginx@md5:00",
        "nginx@",
        "host:99999/x",
        "host:/x",
        "[::1/x",
        "[zz]:1/x",
        "a.b-/x",
        "http://x/y",
        "x:.t",
        "x:-t",
        HEX,
        "../x",
        "x/../y",
        "ü/x",
    ] {
        let error = Reference::parse(text).unwrap_err();
        assert_eq!(error.reason(), "InvalidImageName", "{text}");
    }
    assert!(Reference::parse(&"a".repeat(300)).is_err());
    assert!(Reference::parse(&format!("x:{}", "a".repeat(129))).is_err());
}

#[test]
fn loopback_registries_are_known() {
    for (text, loopback) in [
        ("localhost/x", true),
        ("localhost:5000/x", true),
        ("127.9.0.1:5000/x", true),
        ("[::1]:5000/x", true),
        ("10.0.0.1:5000/x", false),
        ("localhost.example.com/x", false),
        ("127.0.0.1.nip.io/x", false),
        ("nginx", false),
    ] {
        assert_eq!(
            Reference::parse(text).unwrap().is_loopback(),
            loopback,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,300}") {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn what_parses_is_a_fixed_point(
        text in "([a-zA-Z0-9.\\-]{1,12}(:[0-9]{1,5})?/)?[a-z0-9._\\-]{1,10}(/[a-z0-9._\\-]{1,10})?(:[\\w.\\-]{1,10})?"
    ) {
        if let Ok(reference) = Reference::parse(&text) {
            let again = Reference::parse(&reference.to_string()).unwrap();
            prop_assert_eq!(&again, &reference);
            prop_assert!(!reference.repository.contains(".."));
            prop_assert!(reference.tag.is_some() || reference.digest.is_some());
        }
    }
}
