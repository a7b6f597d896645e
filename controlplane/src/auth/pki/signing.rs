//! Signing what others ask for.

use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber};

use super::{DAY, LEAF_DAYS, PkiError, make_error};
use crate::auth::csr::SigningRequest;

/// Clocks may be this much behind ours.
const BACKDATE: i64 = 300;

pub(super) fn sign(
    request: &SigningRequest,
    usages: &[String],
    seconds: i64,
    now: jiff::Timestamp,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<String, PkiError> {
    let failed = |source| make_error(&request.name, source);
    let mut wanted = request.params.clone();
    let params = &mut wanted.params;
    let at = |seconds: i64| {
        time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    };
    params.not_before = at(now.as_second() - BACKDATE);
    params.not_after = at(now.as_second() + seconds.clamp(1, LEAF_DAYS * DAY));
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages.iter().filter_map(|usage| extended(usage)).collect();
    let certificate = wanted.signed_by(issuer).map_err(failed)?;
    Ok(certificate.pem())
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        _ => return None,
    })
}

fn extended(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        _ => return None,
    })
}
