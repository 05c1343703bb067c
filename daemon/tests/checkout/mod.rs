//! A user's checkout, made and looked at with git itself, whatever the machine's own configuration
//! says.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A git command in `place`, as a user without any configuration runs it.
pub fn command(place: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "protocol.file.allow=always"]).args(args).current_dir(place);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

/// What the command prints; it must succeed.
pub fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// What git prints; it must succeed.
pub fn git(place: &Path, args: &[&str]) -> String {
    said(command(place, args))
}

/// An empty repository whose user has a name.
pub fn init(path: &Path) {
    fs::create_dir_all(path).unwrap();
    git(path, &["init", "-q", "-b", "main"]);
    git(path, &["config", "user.name", "User"]);
    git(path, &["config", "user.email", "user@example.org"]);
}

/// Writes a file, and the folders above it.
pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
