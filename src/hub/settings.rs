//! What the environment says about the Hub: the variables of `huggingface_hub`
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub and its cache are.
// Without `Debug`, which would print the token.
#[derive(Clone)]
pub struct Settings {
    /// The URL without a trailing slash: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The folder of the cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or the content of `HF_TOKEN_PATH`, or of `token` in `HF_HOME`.
    pub token: Option<String>,
    /// The variable that forbids requests: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    pub offline: Option<&'static str>,
    /// Pause before the second attempt of a request; each later one is twice as long.
    pub pause: Duration,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// Exit 2: no place for the cache.
    pub fn from_env() -> Result<Self> {
        Self::of(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let user = variable("HOME").map(PathBuf::from);
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(text),
        };
        let place = first(&["HF_HOME"]).map(path).or_else(|| {
            let caches = first(&["XDG_CACHE_HOME"]).map(path).or_else(|| Some(user.as_ref()?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let within = |name: &str| place.as_ref().map(|place| place.join(name));
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map(path).or_else(|| within("hub"));
        let cache = cache.ok_or_else(|| {
            Error::input("no folder for models of the Hugging Face Hub: neither HF_HOME nor HOME is set: set HF_HOME")
        })?;
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(|| {
            let file = first(&["HF_TOKEN_PATH"]).map(path).or_else(|| within("token"))?;
            std::fs::read_to_string(file).ok()
        });
        let is_on = |name: &&str| {
            variable(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };
        Ok(Settings {
            endpoint: first(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_owned(),
            cache: std::path::absolute(&cache).unwrap_or(cache),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(is_on),
            pause: Duration::from_secs(1),
        })
    }

    /// Returns the endpoint without its scheme, for messages.
    pub fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, host)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(variables: &[(&str, &str)]) -> Settings {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::of(&variable).unwrap()
    }

    #[test]
    fn the_variables_of_huggingface_hub_are_read() {
        let usual = of(&[("HOME", "/nowhere/me")]);
        assert_eq!(usual.cache, Path::new("/nowhere/me/.cache/huggingface/hub"));
        assert_eq!((usual.host(), usual.token.as_deref(), usual.offline), ("huggingface.co", None, None));
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let other = of(&[("HF_HOME", place), ("HF_ENDPOINT", "http://mirror:80/x/"), ("TRANSFORMERS_OFFLINE", "TRUE")]);
        assert_eq!((other.cache, other.token.as_deref()), (dir.path().join("hub"), Some("hf_file")));
        assert_eq!((other.endpoint.as_str(), other.offline), ("http://mirror:80/x", Some("TRANSFORMERS_OFFLINE")));
        let token = dir.path().join("token");
        let all = of(&[
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/x"),
            ("HF_TOKEN_PATH", token.to_str().unwrap()),
            ("HF_HUB_OFFLINE", "0"),
        ]);
        assert_eq!(all.cache, Path::new("/x/huggingface/hub"));
        assert_eq!((all.token.as_deref(), all.offline), (Some("hf_file"), None));
        let named = of(&[("HOME", "/h"), ("HF_HUB_CACHE", "~/c"), ("HF_TOKEN", " t "), ("HF_HOME", place)]);
        assert_eq!((named.cache.as_path(), named.token.as_deref()), (Path::new("/h/c"), Some("t")));
        assert!(Settings::of(&|_| None).err().unwrap().to_string().contains("set HF_HOME"));
    }
}
