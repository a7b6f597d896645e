//! Named formats: `format.dns1123Label().validate("a.b")`.

use cel::common::types::{STRING_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::objects::Opaque;
use cel::{DeclarationError, Env};

use super::{Arguments, Outcome, give, give_opaque, global, member, opaque_at, text_at};
use crate::kinds::custom::formats;
use crate::kinds::names;

const NAME: &str = "kubernetes.NamedFormat";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Format(&'static str);

impl Opaque for Format {
    fn runtime_type_name(&self) -> &str {
        NAME
    }
}

const NAMES: &[&str] = &[
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

impl Format {
    fn named(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|known| **known == name)
            .map(|name| Self(name))
    }

    fn problems(&self, text: &str) -> Vec<String> {
        let other = |format: &str| {
            if formats::is(format, text) {
                Vec::new()
            } else {
                vec![format!("does not match the format {}", self.0)]
            }
        };
        match self.0 {
            "dns1123Label" => names::dns_label(text),
            "dns1123Subdomain" => names::dns_subdomain(text),
            "dns1035Label" => names::dns_label_1035(text),
            "qualifiedName" => names::qualified_name(text),
            "dns1123LabelPrefix" => names::dns_label(&names::as_prefix(text)),
            "dns1123SubdomainPrefix" => names::dns_subdomain(&names::as_prefix(text)),
            "dns1035LabelPrefix" => names::dns_label_1035(&names::as_prefix(text)),
            "labelValue" => names::label_value(text),
            "datetime" => other("date-time"),
            format => other(format),
        }
    }
}

macro_rules! constructors {
    ($env:expr, $($name:literal),*) => {
        $(global($env, concat!("format.", $name), vec![], |_| give_opaque(Format($name)))?;)*
    };
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    let this = Type::new_opaque_type(NAME);
    env.add_type(Type::new_opaque_type(NAME))?;
    constructors!(
        env,
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime"
    );
    global(env, "format.named", vec![STRING_TYPE], |arguments| {
        let found = Format::named(text_at(&arguments, 0)?);
        let value = found.map(give_opaque).transpose()?;
        optional(value)
    })?;
    member(env, "validate", this, vec![STRING_TYPE], validate)
}

fn optional<'b, 'v>(value: Option<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    Ok(CowVal::owned(match value {
        Some(value) => cel::common::types::CelOptional::of(value.into_owned()),
        None => cel::common::types::CelOptional::none(),
    }))
}

/// What is wrong, if anything is.
fn validate<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let format: Format = opaque_at(&arguments, 0)?;
    let problems = format.problems(text_at(&arguments, 1)?);
    if problems.is_empty() {
        return optional(None);
    }
    let problems: CowVal<'b, 'v> = give(problems)?;
    let owned: Box<dyn Val + 'v> = problems.into_owned();
    optional(Some(CowVal::Owned(owned)))
}
