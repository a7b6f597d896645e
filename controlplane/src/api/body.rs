//! Reading bodies: size and time limits, JSON and YAML, and whether they are an object of the kind.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

use super::negotiate::Encoding;
use crate::kinds::Kind;
use crate::registry::create::api_version;
use crate::registry::{ApiError, object};
use crate::schema::{FieldProblem, check_and_prune, duplicate_fields};

/// The same as Kubernetes' own.
pub(super) const LIMIT: usize = 3 * 1024 * 1024;
/// How much of a body that is too large is read before the connection is given up.
const PATIENCE: usize = 8 * LIMIT;
const READ_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    let whole = collect(body);
    tokio::time::timeout(READ_TIMEOUT, whole)
        .await
        .map_err(|_| ApiError::timeout("the body of the request did not arrive in time"))?
}

/// What is too much is read on for a while and thrown away, so that the client gets to see the answer.
async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        size += data.len();
        if size <= LIMIT {
            whole.extend_from_slice(&data);
        } else {
            whole = BytesMut::new();
        }
        if size > PATIENCE {
            break;
        }
    }
    if size > LIMIT {
        return Err(ApiError::too_large(LIMIT));
    }
    Ok(whole.freeze())
}

/// What to do about unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(super) fn parse(text: &str, options: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(super::request::not_an_option(
                options,
                "fieldValidation",
                other,
                &["Ignore", "Strict", "Warn"],
            )),
        }
    }

    /// Errors of wrong types and, where asked for, of unknown fields; warnings of the rest.
    pub(crate) fn judge(
        self,
        kind: &Kind<'_>,
        problems: &[FieldProblem],
    ) -> Result<Vec<String>, ApiError> {
        if let Some(wrong) = problems.iter().find(|problem| problem.is_fatal()) {
            return Err(ApiError::cannot_be_handled(kind, &wrong.to_string()));
        }
        let loose: Vec<String> = problems.iter().map(ToString::to_string).collect();
        match self {
            Self::Ignore => Ok(Vec::new()),
            Self::Warn => Ok(loose),
            Self::Strict if loose.is_empty() => Ok(loose),
            Self::Strict => {
                let why = format!("strict decoding error: {}", loose.join(", "));
                Err(ApiError::cannot_be_handled(kind, &why))
            }
        }
    }
}

pub(super) fn parse(bytes: &[u8], encoding: Encoding) -> Result<Value, ApiError> {
    match encoding {
        Encoding::Json => serde_json::from_slice(bytes).map_err(|error| {
            ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type Object): couldn't get version/kind; \
                 json parse error: {error}"
            ))
        }),
        Encoding::Yaml => parse_yaml(bytes),
        Encoding::Protobuf => super::protobuf::parse(bytes),
    }
}

pub(super) fn parse_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_saphyr::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or("").trim().to_owned();
        ApiError::bad_request(format!("error converting YAML to JSON: yaml: {line}"))
    })
}

/// The body as an object of the kind, without unknown fields, and the warnings.
pub(super) fn object_of(
    kind: &Kind<'_>,
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let mut body = parse(bytes, encoding)?;
    check_type(kind, &body)?;
    // Where a map of a type has null, that is an empty value, and no other null is anything.
    let mut problems = check_and_prune(kind, &mut body);
    object::strip_absent(kind, &mut body);
    if encoding == Encoding::Json && validation != FieldValidation::Ignore {
        problems.extend(duplicate_fields(bytes));
    }
    let warnings = validation.judge(kind, &problems)?;
    Ok((body, warnings))
}

/// A body must say that it is what the URL says; saying nothing is fine.
fn check_type(kind: &Kind<'_>, body: &Value) -> Result<(), ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request(
            "the object provided is unrecognized (must be of type Object): couldn't get version/kind; json \
             parse error: the body is not a JSON object",
        ));
    }
    let text = |field: &str| body[field].as_str().unwrap_or("").to_owned();
    let (given_version, given_kind) = (text("apiVersion"), text("kind"));
    let version = api_version(kind);
    if !given_kind.is_empty() && given_kind != kind.kind {
        let shown = if given_version.is_empty() {
            &version
        } else {
            &given_version
        };
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version \"{shown}\" cannot be handled as a {}: converting ({shown}.{given_kind}) \
             to ({version}.{}): unknown conversion",
            kind.kind, kind.kind
        )));
    }
    if !given_version.is_empty() && given_version != version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({version})"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn bodies_are_bounded() {
        let body = Body::from(vec![b' '; LIMIT + 1]);
        assert_eq!(read(body).await.unwrap_err().code(), 413);
        let stream = futures::stream::iter(
            (0..LIMIT / 1024 + 2).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1024]))),
        );
        assert_eq!(
            read(Body::from_stream(stream)).await.unwrap_err().code(),
            413
        );
    }

    #[test]
    fn invalid_yaml_is_a_bad_request() {
        let error = parse(b"a: [1, 2\nb: {", Encoding::Yaml).unwrap_err();
        assert_eq!(error.code(), 400);
        assert!(
            error
                .to_string()
                .starts_with("error converting YAML to JSON: yaml:"),
            "{error}"
        );
        assert_eq!(parse(b"{", Encoding::Json).unwrap_err().code(), 400);
        assert_eq!(
            parse(b"a: {b: [1, x]}", Encoding::Yaml).unwrap(),
            serde_json::json!({"a": {"b": [1, "x"]}})
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Encoding::Json);
            let _ = parse(&bytes, Encoding::Yaml);
        }

        #[test]
        fn almost_yaml_is_judged_without_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\" \n#%@?,0-9]{0,80}") {
            let _ = parse(text.as_bytes(), Encoding::Yaml);
        }
    }
}
