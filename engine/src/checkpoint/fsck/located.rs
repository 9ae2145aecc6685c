//! Where things are: a store, a path in it, and full names of files as paths in it.

use std::sync::Arc;

use object_store::ObjectStore;

/// A path in a store.
#[derive(Clone, Debug)]
pub struct Located {
    /// The store, from its root: a bucket, or the local disk.
    pub store: Arc<dyn ObjectStore>,
    /// What full names in it begin with: `file://`, `s3://bucket`.
    pub root: String,
    /// The path, without a slash in front.
    pub path: String,
}

/// Files that were written in one place and are now in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What the names in the metadata begin with.
    pub from: String,
    /// What to put instead.
    pub to: String,
}

impl Located {
    /// The full name of a path, for people.
    pub fn name(&self, path: &str) -> String {
        match self.root.as_str() {
            "file://" => format!("/{path}"),
            root => format!("{root}/{path}"),
        }
    }

    /// The path that a full name has in this store; `None` if it is in another.
    pub(super) fn path_of(&self, name: &str, moved: &[Moved]) -> Option<String> {
        let name = normal(name);
        let replaced = moved.iter().find_map(|Moved { from, to }| {
            let from = normal(from);
            let rest = name.strip_prefix(from.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| format!("{}{rest}", normal(to).trim_end_matches('/')))
        });
        let name = replaced.unwrap_or(name);
        let path = name.strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        Some(path.to_owned())
    }
}

/// `/a`, `file:/a` and `file:///a` are the same; so are the names that Hadoop has for S3.
fn normal(name: &str) -> String {
    if let Some(path) = name.strip_prefix("file:") {
        return format!("file:///{}", path.trim_start_matches('/'));
    }
    if name.starts_with('/') {
        return format!("file://{name}");
    }
    for scheme in ["s3a://", "s3p://", "s3n://"] {
        if let Some(rest) = name.strip_prefix(scheme) {
            return format!("s3://{rest}");
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(root: &str) -> Located {
        Located {
            store: Arc::new(object_store::memory::InMemory::new()),
            root: root.into(),
            path: String::new(),
        }
    }

    #[test]
    fn full_names_are_paths_of_their_store() {
        let local = located("file://");
        for name in ["/a/b", "file:/a/b", "file:///a/b"] {
            assert_eq!(local.path_of(name, &[]).as_deref(), Some("a/b"));
        }
        assert_eq!(local.path_of("s3://bucket/a", &[]), None);
        assert_eq!(located("s3://bucket").path_of("s3a://bucket/a", &[]).as_deref(), Some("a"));
        assert_eq!(located("s3://bucket").path_of("s3a://bucket2/a", &[]), None);
        let moved = [Moved { from: "s3://bucket/flink/".into(), to: "/copy".into() }];
        assert_eq!(local.path_of("s3a://bucket/flink/x/y", &moved).as_deref(), Some("copy/x/y"));
        assert_eq!(local.path_of("s3a://bucket/flinky", &moved), None);
    }
}
