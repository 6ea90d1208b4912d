//! Certificate authorities and the certificates that they sign, for TLS in tests.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// An authority.
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its key, both in PEM.
pub(crate) struct Signed {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Signed {
    /// Key and certificate, as Kafka's keystores of the type PEM have them.
    pub(crate) fn store(&self) -> Vec<u8> {
        [self.key.as_slice(), &self.certificate].concat()
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Authority> {
        let key = PKey::from_rsa(Rsa::generate(2048)?)?;
        let name = named(name)?;
        let mut builder = builder(&name, &name, &key, (-86_400, 86_400))?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok(Authority { certificate, key })
    }

    /// Its own certificate, in PEM.
    pub(crate) fn pem(&self) -> Result<Vec<u8>> {
        Ok(self.certificate.to_pem()?)
    }

    /// The name under which OpenSSL looks for its certificate in a folder.
    pub(crate) fn hashed_name(&self) -> String {
        format!("{:08x}.0", self.certificate.subject_name_hash())
    }

    /// A certificate for 127.0.0.1 and this name, valid between these seconds from now.
    pub(crate) fn sign(&self, name: &str, valid: (i64, i64)) -> Result<Signed> {
        let key = PKey::from_rsa(Rsa::generate(2048)?)?;
        let issuer = self.certificate.subject_name();
        let mut builder = builder(&named(name)?, issuer, &key, valid)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = SubjectAlternativeName::new()
            .ip("127.0.0.1")
            .build(&context)?;
        builder.append_extension(names)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Signed {
            certificate: builder.build().to_pem()?,
            key: key.private_key_to_pem_pkcs8()?,
        })
    }
}

fn named(name: &str) -> Result<X509Name> {
    let mut builder = X509NameBuilder::new()?;
    builder.append_entry_by_text("CN", name)?;
    Ok(builder.build())
}

fn builder(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    valid: (i64, i64),
) -> Result<X509Builder> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_u32(fastrand::u32(1..))?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    builder.set_not_before(&*Asn1Time::from_unix(now + valid.0)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(now + valid.1)?)?;
    Ok(builder)
}
