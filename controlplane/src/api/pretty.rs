//! `?pretty=true`: JSON with line breaks and indentation, for people who read it. Nothing is parsed, so that
//! fields keep their order; watches and what is no JSON are left as they are.

use axum::body::Body;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt;

const STEP: usize = 2;

/// The response with its body indented, if it is plain JSON.
pub(super) async fn indented(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let json =
        parts.headers.get(CONTENT_TYPE) == Some(&HeaderValue::from_static("application/json"));
    if !json || parts.headers.contains_key(CONTENT_ENCODING) {
        return Response::from_parts(parts, body);
    }
    // Bodies are made here, without anything that can fail.
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "a body of ours could not be collected");
            return Response::from_parts(parts, Body::empty());
        }
    };
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(indent(&bytes)))
}

/// Pure. Anything between strings that is no JSON is copied as it is.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut bytes = json.iter().copied().peekable();
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + depth * STEP, b' ');
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                out.push(byte);
                while let Some(byte) = bytes.next() {
                    out.push(byte);
                    match byte {
                        b'"' => break,
                        b'\\' => out.extend(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                out.push(byte);
                match bytes.peek() {
                    Some(b'}' | b']') => out.extend(bytes.next()),
                    _ => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend([b':', b' ']),
            b'\n' | b'\r' | b'\t' | b' ' => {}
            other => out.push(other),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::indent;

    #[test]
    fn fields_are_lines() {
        let json = br#"{"b":[1,{"a":"x, {y}: \"z\\"}],"a":{},"c":[]}"#;
        let expected = r#"{
  "b": [
    1,
    {
      "a": "x, {y}: \"z\\"
    }
  ],
  "a": {},
  "c": []
}
"#;
        assert_eq!(String::from_utf8(indent(json)).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn it_says_the_same(keys in proptest::collection::vec(".*", 0..5), text in ".*", number: i64) {
            let mut value = json!({"list": [text, number, null, [], {}, [{"a": text}]]});
            for key in keys {
                value[key] = json!({"text": text});
            }
            let indented = indent(value.to_string().as_bytes());
            prop_assert_eq!(serde_json::from_slice::<Value>(&indented).unwrap(), value);
        }

        #[test]
        fn anything_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // Each byte begins at most one line, as deep as the bytes before it.
            prop_assert!(indent(&bytes).len() <= (bytes.len() + 2) * (bytes.len() + 2) * 2);
        }
    }
}
