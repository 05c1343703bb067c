//! PostgreSQL over TLS: whom a relay takes for its server, as `sslmode` and `sslrootcert` say. Skipped
//! by name where `HAYWARD_TEST_POSTGRES` names no server, or there is no `openssl`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::authority::Authority;
use harness::{house_with, schema};
use hayward_relay::{Config, Database, examine};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::error::Error;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How a client asks a server for TLS.
const ASKS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A front of the server at `server` that speaks nothing but TLS, with this certificate.
async fn front(authority: &Authority, name: &str, server: String) -> u16 {
    let chain =
        vec![CertificateDer::from_pem_file(authority.file(&format!("{name}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.file(&format!("{name}.key"))).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut asked = [0; ASKS.len()];
                if near.read_exact(&mut asked).await.is_err() || asked != ASKS {
                    return;
                }
                near.write_all(b"S").await.unwrap();
                // whoever does not take the certificate hangs up
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(server).await.unwrap();
                drop(copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    port
}

#[tokio::test]
async fn a_relay_reaches_its_database_over_tls_and_takes_no_other_server_for_it() {
    let test = "a database over TLS";
    if std::env::var("HAYWARD_TEST_POSTGRES").is_err() {
        eprintln!("SKIP {test}: HAYWARD_TEST_POSTGRES is not set");
        return;
    }
    let Some(authority) = Authority::found(test) else { return };
    drop(rustls::crypto::ring::default_provider().install_default());
    authority.issue("server", "DNS:localhost");
    let plain = schema().await;
    let (before, rest) = plain.split_once('@').unwrap();
    let (server, name) = rest.split_once('/').unwrap();
    let port = front(&authority, "server", server.to_owned()).await;
    let known = format!("&sslrootcert={}", authority.file("ca.pem").display());
    let over = |host: &str, words: &str| -> Database {
        format!("{before}@{host}:{port}/{name}&sslmode={words}").parse().unwrap()
    };

    let database = over("localhost", &format!("verify-full{known}"));
    let house = house_with(|of| *of = Config::new(database, of.listen)).await;
    let task = house.make(json!({"plan": "x"})).await;
    assert_eq!(house.task(&task).await["status"], "queued");
    house.stop().await;

    let refused = [
        // nobody knows who issued its certificate
        over("localhost", "verify-full"),
        // it is for another name
        over("127.0.0.1", &format!("verify-full{known}")),
    ];
    for database in refused {
        let shown = database.to_string();
        let found = examine(&Config::new(database, "127.0.0.1:0".parse().unwrap())).await;
        let error = found.tables.expect_err(&shown);
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("certificate"), "{shown}: {cause}");
    }
    // without a look at the name it is taken, as long as its authority is known
    let database = over("127.0.0.1", &format!("verify-ca{known}"));
    let found = examine(&Config::new(database, "127.0.0.1:0".parse().unwrap())).await;
    assert!(found.tables.is_ok(), "{found:?}");
}
