//! What a revision of a repository has: the answer of `/api/models/ORG/NAME/revision/REVISION?blobs=true`.

use super::hash::Checksum;
use super::repo::is_inside;
use serde_json::Value;

/// A file of a repository.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its path in the repository.
    pub name: String,
    /// In bytes, if the server says it.
    pub size: Option<u64>,
    /// Its name in the cache, if the server says it.
    pub etag: Option<String>,
    pub checksum: Option<Checksum>,
}

/// The files of a revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub entries: Vec<Entry>,
}

impl Listing {
    /// Reads the server's answer; `None` if it has another form. Files whose names leave the repository are left out.
    pub fn read(json: &Value) -> Option<Self> {
        let commit = json.get("sha")?.as_str().filter(|commit| is_etag(commit))?.to_owned();
        let files = json.get("siblings")?.as_array()?.iter();
        Some(Listing { commit, entries: files.filter_map(entry).collect() })
    }

    pub fn names(&self) -> Vec<&str> {
        self.entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    /// Returns the entry of a file.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

fn entry(json: &Value) -> Option<Entry> {
    let name = json.get("rfilename")?.as_str().filter(|name| is_inside(name))?.to_owned();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let lfs = json.get("lfs").filter(|lfs| lfs.is_object());
    let size = lfs.and_then(|lfs| lfs.get("size")).or_else(|| json.get("size")).and_then(Value::as_u64);
    let sha256 = text(lfs.and_then(|lfs| lfs.get("sha256"))).map(Checksum::Sha256);
    // The Git hash of a large file is that of its pointer.
    let checksum = sha256.or_else(|| text(json.get("blobId")).filter(|_| lfs.is_none()).map(Checksum::Git));
    Some(Entry { name, size, checksum, etag: None }.with_etag(None))
}

impl Entry {
    /// Adds the `ETag` that the server has given, unless the checksum is known, from which it follows.
    pub fn with_etag(self, given: Option<&str>) -> Self {
        let etag = match &self.checksum {
            Some(Checksum::Sha256(sum) | Checksum::Git(sum)) => Some(sum.clone()),
            None => given.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned()),
        };
        let etag = etag.filter(|etag| is_etag(etag));
        let is_sha256 = |etag: &&String| etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let checksum = self.checksum.or_else(|| etag.as_ref().filter(is_sha256).cloned().map(Checksum::Sha256));
        Entry { etag, checksum, ..self }
    }
}

/// Whether this can be the name of a file in the cache.
fn is_etag(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=200).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_and_checksums_of_files() {
        let sum = "ab".repeat(32);
        let listing = Listing::read(&json!({"sha": "c0ffee", "siblings": [
            {"rfilename": "config.json", "size": 5, "blobId": "ce01"},
            {"rfilename": "model.safetensors", "blobId": "d00f", "lfs": {"sha256": sum, "size": 9, "pointerSize": 134}},
            {"rfilename": "old.txt"},
            {"rfilename": "../evil"},
        ]}))
        .unwrap();
        assert_eq!(
            (listing.commit.as_str(), listing.names()),
            ("c0ffee", vec!["config.json", "model.safetensors", "old.txt"])
        );
        let [small, large, old] = &listing.entries[..] else { panic!("{listing:?}") };
        assert_eq!((small.size, small.etag.as_deref()), (Some(5), Some("ce01")));
        assert_eq!((large.size, large.etag.as_ref()), (Some(9), Some(&sum)));
        assert_eq!(large.checksum, Some(Checksum::Sha256(sum.clone())));
        assert_eq!((old.size, &old.etag, &old.checksum), (None, &None, &None));
        let old = old.clone().with_etag(Some(&format!("W/\"{sum}\"")));
        assert_eq!(old.checksum, Some(Checksum::Sha256(sum)));
        assert_eq!(listing.entries[2].clone().with_etag(Some("\"a/../b\"")).etag, None);
        assert!(Listing::read(&json!({"sha": "../x", "siblings": []})).is_none());
    }
}
