//! An authority of a test's own, that issues certificates.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long its certificates hold, in days: longer than any test.
const DAYS: &str = "2";

/// A key that is quick to make.
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// A new one; none, and said so, where there is no `openssl`.
    pub fn found(test: &str) -> Option<Self> {
        let is_there = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
        if !is_there.is_ok_and(|status| status.success()) {
            eprintln!("SKIP {test}: there is no openssl");
            return None;
        }
        let own = Self { folder: tempfile::tempdir().unwrap() };
        own.openssl(&["req", "-x509"], &KEY, &["-keyout", "ca.key", "-out", "ca.pem"], "/CN=test");
        Some(own)
    }

    /// A file of it: `ca.pem`, or the `NAME.pem` and `NAME.key` of what it issued.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Issues a certificate `NAME.pem` with its `NAME.key`, for a host (`DNS:…` or `IP:…`).
    pub fn issue(&self, name: &str, host: &str) {
        let [key, request, certificate, extension] =
            ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
        std::fs::write(self.file(&extension), format!("subjectAltName={host}\n")).unwrap();
        self.openssl(&["req"], &KEY, &["-keyout", &key, "-out", &request], "/CN=issued");
        let issue = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        let (what, to) =
            (["-req", "-in", &request], ["-out", &certificate, "-extfile", &extension]);
        self.run(&[&["x509", "-days", DAYS], &issue[..], &what[..], &to[..]].concat());
    }

    fn openssl(&self, what: &[&str], key: &[&str], files: &[&str], subject: &str) {
        let days: &[&str] = if what.contains(&"-x509") { &["-days", DAYS] } else { &[] };
        self.run(&[what, key, files, days, &["-subj", subject]].concat());
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let ran = command.args(arguments).current_dir(self.folder.path()).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}
