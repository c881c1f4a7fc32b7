//! Checksums of files, as the Hub has them.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What a file must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of a large file (Git LFS), in hexadecimal.
    Sha256(String),
    /// Of a small file: SHA-1 of `blob SIZE\0` and the content.
    Git(String),
}

impl Checksum {
    /// Whether a file has this checksum.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn is_of(&self, path: &Path) -> io::Result<bool> {
        Ok(match self {
            Checksum::Sha256(wanted) => sha256(path)? == *wanted,
            Checksum::Git(wanted) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {}\0", path.metadata()?.len()).as_bytes());
                digest(path, context)? == *wanted
            }
        })
    }
}

/// Returns the SHA-256 of a file in hexadecimal.
///
/// # Errors
/// An unreadable file.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    digest(path, Context::new(&SHA256))
}

fn digest(path: &Path, mut context: Context) -> io::Result<String> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_git() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "hello\n").unwrap();
        // sha256sum and git hash-object of this file.
        let sha256 = Checksum::Sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into());
        let git = Checksum::Git("ce013625030ba8dba906f756967f9e9ca394464a".into());
        assert!(sha256.is_of(&path).unwrap() && git.is_of(&path).unwrap());
        std::fs::write(&path, "hello").unwrap();
        assert!(!sha256.is_of(&path).unwrap() && !git.is_of(&path).unwrap());
    }
}
