//! What mutating policies write patches with: `jsonpatch.escapeKey("a/b")`.

use cel::common::types::STRING_TYPE;
use cel::{DeclarationError, Env};

use super::{give, global, text_at};

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    global(env, "jsonpatch.escapeKey", vec![STRING_TYPE], |arguments| {
        let key = text_at(&arguments, 0)?;
        give(key.replace('~', "~0").replace('/', "~1"))
    })
}
