//! A NATS server of a test's own, with TLS and whatever lets somebody in.

use super::BOUND;
use super::authority::Authority;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

/// Whoever shows a certificate of the authority is let in.
pub const CERTIFICATES: &str = "certificates";

/// A server that is ended with this.
pub struct Guarded {
    child: Option<Child>,
    folder: PathBuf,
    pub port: u16,
    _held: TcpSocket,
}

impl Guarded {
    /// Starts one that shows the certificate `name` of the authority, and lets in whom `guard` says.
    pub fn start(authority: &Authority, name: &str, guard: &str) -> Self {
        // bound and never listening: whoever asks for a free port is given another one, and the
        // server, which names this one, gets it
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let mut own =
            Self { child: None, folder: authority.folder().to_owned(), port, _held: held };
        own.restart(name, guard);
        own
    }

    /// Ends it, and starts it anew on the same port.
    pub fn restart(&mut self, name: &str, guard: &str) {
        self.end();
        let (port, asks) = (self.port, guard == CERTIFICATES);
        let guard = if asks { "" } else { guard };
        let text = format!(
            "listen: 127.0.0.1:{port}\n\
             tls {{ cert_file: {name}.pem, key_file: {name}.key, ca_file: ca.pem, verify: {asks} }}\n\
             {guard}\n"
        );
        std::fs::write(self.folder.join("nats.conf"), text).unwrap();
        let mut command = Command::new("nats-server");
        command.args(["-c", "nats.conf", "-l", "nats.log"]).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = std::fs::read_to_string(self.folder.join("nats.log"));
            assert!(begun.elapsed() < BOUND, "nats-server does not start: {log:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}

/// An operator with one account, as a server with decentralised accounts has them.
pub struct Operator {
    account: KeyPair,
    /// What the server is told of it.
    pub guard: String,
}

impl Operator {
    pub fn new() -> Self {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let told = json!({"type": "operator", "version": 2});
        let own = token(&operator, &operator.public_key(), told);
        let told = json!({
            "type": "account", "version": 2,
            "limits": {
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                "wildcards": true, "conn": -1, "leaf": -1,
            },
        });
        let holder = account.public_key();
        let of_account = token(&operator, &holder, told);
        let guard = format!(
            "operator: \"{own}\"\nresolver: MEMORY\nresolver_preload: {{ {holder}: \"{of_account}\" }}"
        );
        Self { account, guard }
    }

    /// Writes the credentials of a new user of the account, in the form that `nsc` gives them.
    pub fn credentials(&self, file: PathBuf) -> PathBuf {
        let user = KeyPair::new_user();
        let told = json!({
            "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
            "pub": {}, "sub": {},
        });
        let token = token(&self.account, &user.public_key(), told);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file
    }
}

/// What `issuer` says of `subject`, signed.
fn token(issuer: &KeyPair, subject: &str, told: Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject, "nats": told,
    });
    let signed = format!("{head}.{}", part(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
