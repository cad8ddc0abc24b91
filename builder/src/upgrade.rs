//! What machines that run an older version are upgraded with: a tar archive of everything that one slot and the boot loaders
//! need, behind a signed list of it. The format is the bootstrap's, which reads it.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use bootstrap::upgrade::release::{DOCUMENT, MEMBERS, Member, Release, SIGNATURE};
use images::disk::{Piece, Pieces};
use images::sparse_digest::digest;
use offline_repo::signer::{Signer, ed25519_key};
use sha2::{Digest, Sha256};

use crate::bake::Source;
use crate::diagnostic::{Diagnostic, Result};
use crate::recipe::Recipe;
use crate::session::Session;
use crate::stages;

/// The largest key file that is read, in bytes.
const KEY_LIMIT: u64 = 1 << 20;

/// The Ed25519 key that images of a repository trust for upgrades: the one that signed it, which lies beside it. `None` when
/// there is none, or it is of another kind.
pub fn trusted_key(repository: &Path) -> Result<Option<[u8; 32]>> {
    let name = repository.file_name().unwrap_or_default().to_string_lossy();
    let path = repository.with_file_name(format!("{name}.asc"));
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(KEY_LIMIT).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Diagnostic::io("read", &path, error)),
        Ok(_) => {}
    }
    Ok(ed25519_key(&bytes)?)
}

/// Writes upgrades of one recipe.
pub struct Writer {
    name: String,
    version: String,
    architecture: String,
    epoch: u64,
    signer: Signer,
}

impl Writer {
    /// With the key that signs repositories, which must be the one that the images trust.
    pub fn new(session: &Session, recipe: &Recipe, source: &Source) -> Result<Self> {
        let signer = stages::signer(session, recipe.key)?;
        let own = ed25519_key(&signer.public_key()?.binary)?;
        if own.is_none() || trusted_key(source.repository.path())? != own {
            let message =
                "the signing key is not the one that images of this repository trust for upgrades";
            return Err(Diagnostic::failed("FR-IMAGE-UPGRADE", message).with_hint(
                "name the key that signed the repository, an Ed25519 one, with FARROW_SIGNING_KEY",
            ));
        }
        Ok(Self {
            name: recipe.name.clone(),
            version: recipe.image_version().to_owned(),
            architecture: recipe.architecture.clone(),
            epoch: stages::epoch(&source.lock),
            signer,
        })
    }

    /// What writes an image's pieces to a new file.
    pub fn sink(&self) -> impl Fn(&Pieces<'_>, &Path) -> io::Result<()> + Sync + '_ {
        |pieces, path| self.write(pieces, path)
    }

    fn write(&self, pieces: &Pieces<'_>, path: &Path) -> io::Result<()> {
        let mut members = Vec::new();
        for (name, _) in MEMBERS {
            let (sha256, size) = match piece(pieces, name)? {
                Piece::Bytes(bytes) => (hex::encode(Sha256::digest(bytes)), bytes.len() as u64),
                Piece::File(path) => digest(path).map_err(io::Error::other)?,
            };
            members.push(Member {
                name: name.to_owned(),
                size,
                sha256,
            });
        }
        let release = Release::new(
            &self.name,
            &self.version,
            &self.architecture,
            pieces.root_hash,
            members,
        );
        let document = format!("{}\n", serde_json::to_string_pretty(&release)?);
        // What no machine would accept is not written.
        Release::parse(document.as_bytes()).map_err(io::Error::other)?;
        let signature = self
            .signer
            .detach(document.as_bytes(), self.epoch)
            .map_err(io::Error::other)?;
        let mut archive = tar::Builder::new(BufWriter::new(File::create_new(path)?));
        self.append(
            &mut archive,
            DOCUMENT,
            document.len() as u64,
            document.as_bytes(),
        )?;
        self.append(
            &mut archive,
            SIGNATURE,
            signature.len() as u64,
            &signature[..],
        )?;
        for member in &release.members {
            match piece(pieces, &member.name)? {
                Piece::Bytes(bytes) => {
                    self.append(&mut archive, &member.name, member.size, *bytes)?
                }
                Piece::File(path) => {
                    self.append(&mut archive, &member.name, member.size, File::open(path)?)?
                }
            }
        }
        let file = archive
            .into_inner()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    }

    fn append(
        &self,
        archive: &mut tar::Builder<impl Write>,
        name: &str,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header.set_size(size);
        header.set_cksum();
        archive.append(&header, content)
    }
}

fn piece<'a>(pieces: &'a Pieces<'_>, name: &str) -> io::Result<&'a Piece<'a>> {
    let found = pieces.pieces.iter().find(|(known, _)| *known == name);
    let none = || io::Error::other(format!("the image has no {name}"));
    found.map(|(_, piece)| piece).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootstrap::upgrade::archive::Archive;
    use bootstrap::upgrade::read_release;

    fn writer(signer: Signer) -> Writer {
        Writer {
            name: "base".into(),
            version: "2".into(),
            architecture: "amd64".into(),
            epoch: 1_790_000_000,
            signer,
        }
    }

    /// Signed by one program, verified by the other; the same bytes each time.
    #[test]
    fn what_is_written_is_what_machines_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.erofs");
        std::fs::write(&root, [1; 8192]).unwrap();
        let hash = "ab".repeat(32);
        let pieces = Pieces {
            root_hash: &hash,
            pieces: vec![
                ("root", Piece::File(&root)),
                ("verity", Piece::Bytes(&[2; 4096])),
                ("linux.efi", Piece::Bytes(b"uki")),
                ("entry.cfg", Piece::Bytes(b"entry")),
            ],
        };
        let signer = || Signer::from_secret([3; 32], "test").unwrap();
        let key = ed25519_key(&signer().public_key().unwrap().binary)
            .unwrap()
            .unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        for path in [&one, &two] {
            writer(signer()).write(&pieces, path).unwrap();
        }
        let bytes = std::fs::read(&one).unwrap();
        assert_eq!(bytes, std::fs::read(&two).unwrap());
        let mut archive = Archive::new(&bytes[..]);
        let release = read_release(&mut archive, &key).unwrap();
        assert_eq!(
            (release.version.as_str(), release.root_hash.as_str()),
            ("2", hash.as_str())
        );
        for member in &release.members {
            let content = archive.small(&member.name, 1 << 20).unwrap();
            assert_eq!(hex::encode(Sha256::digest(&content)), member.sha256);
        }
        let error = read_release(&mut Archive::new(&bytes[..]), &[9; 32]).unwrap_err();
        assert_eq!(error.code(), "FR-UPGRADE-SIGNATURE");
    }
}
