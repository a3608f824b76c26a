//! Walks through a client's life, and prints a line for each step.
//!
//! A step that waits for the test prints "name value" and reads a line.

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use serde::Deserialize;
use tonic::Status;
use tonic::transport::Channel;

use authsvc::auth_service_client::AuthServiceClient;
use authsvc::{
    ClientContext, LoginRequest, RefreshTokensRequest, RegisterRequest, RegisterResponse, Tokens,
    ValidateTokenRequest, login_response::Result as Outcome,
};
use connection::{answer, connect, reason_of, repeated, within};
use verifier::{Rejection, Verifier, check};

mod connection;
mod verifier;

#[allow(dead_code, clippy::all)]
#[path = "../gen/rust/authsvc/v1/authsvc.v1.rs"]
mod authsvc;

const EMAIL: &str = "rust@example.com";
const PASSWORD: &str = "Correct-Horse-7-Battery";
const LIMIT: Duration = Duration::from_secs(5);

type Auth = AuthServiceClient<Channel>;

// docs: login
async fn register(auth: &mut Auth, email: &str, password: &str) -> Result<RegisterResponse, Status> {
    let request = RegisterRequest {
        email: email.into(),
        password: password.into(),
        client: Some(client()),
        ..Default::default()
    };
    answer(auth.register(within(LIMIT, request)).await)
}

async fn log_in(
    auth: &mut Auth,
    email: &str,
    password: &str,
    limit: Duration,
) -> Result<Tokens, Status> {
    let request = LoginRequest {
        email: email.into(),
        password: password.into(),
        client: Some(client()),
        ..Default::default()
    };
    let login = || {
        let (mut auth, request) = (auth.clone(), within(limit, request.clone()));
        async move { answer(auth.login(request).await) }
    };
    match repeated(login).await?.result {
        Some(Outcome::Tokens(tokens)) => Ok(tokens),
        _ => Err(Status::unauthenticated("a second factor is needed: continue with verify_mfa")),
    }
}

async fn refresh(auth: &mut Auth, refresh_token: String) -> Result<Tokens, Status> {
    let request = RefreshTokensRequest { refresh_token, ..Default::default() };
    let refresh = || {
        let (mut auth, request) = (auth.clone(), within(LIMIT, request.clone()));
        async move { answer(auth.refresh_tokens(request).await) }
    };
    let response = repeated(refresh).await?;
    Ok(response.tokens.unwrap_or_default())
}

/// The end user behind the request.
fn client() -> ClientContext {
    ClientContext {
        ip: "203.0.113.7".into(),
        user_agent: "polyglot".into(),
        device_id: "device".into(),
    }
}
// docs: end

// docs: away
/// Verifies a token without a call, and asks the service when the verifier may not decide. If that
/// fails too, so does the request: nothing is accepted because nobody could be asked.
async fn authenticate(verifier: &Verifier, token: &str) -> Result<(), Status> {
    match verifier.verify(token, None).await {
        Ok(_) => Ok(()),
        Err(Rejection::Refused(reason)) => Err(Status::unauthenticated(reason)),
        Err(Rejection::Undecided) => {
            let request = ValidateTokenRequest {
                access_token: token.into(),
                audience: verifier.audience.clone(),
                ..Default::default()
            };
            let request = within(Duration::from_secs(1), request);
            let response = answer(verifier.auth.clone().validate_token(request).await)?;
            match response.active {
                true => Ok(()),
                false => Err(Status::unauthenticated(response.inactive_reason().as_str_name())),
            }
        }
    }
}
// docs: end

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let channel = connect(&get("ADDRESS"), &get("CA"), &get("CERT"), &get("KEY"))?;
    let mut auth = AuthServiceClient::new(channel.clone());
    say("registered", &register(&mut auth, EMAIL, PASSWORD).await?.user_id);
    let mut tokens = log_in(&mut auth, EMAIL, PASSWORD, LIMIT).await?;
    say("logged_in", &tokens.session_id);
    let wrong = log_in(&mut auth, EMAIL, "wrong", LIMIT).await.unwrap_err();
    say("wrong_password", &reason_of(&wrong));
    let late = log_in(&mut auth, EMAIL, PASSWORD, Duration::from_millis(1)).await.unwrap_err();
    say("deadline", &format!("{:?}", late.code()));
    tokens = refresh(&mut auth, tokens.refresh_token).await?;
    say("refreshed", &tokens.session_id);

    check_tokens()?;

    let verifier = Arc::new(Verifier::new(channel, &get("ISSUER"), &get("AUDIENCE")));
    say("before_watching", &outcome(&verifier, &tokens).await);
    let watching = watch(&verifier);
    say("unknown_keys", &storm(&verifier, &tokens).await);
    ask("mend_keys", "")?;
    say("verified", &become_one(&verifier, &tokens, "accepted").await);

    ask("revoke_session", &tokens.session_id)?;
    say("revoked", &become_one(&verifier, &tokens, "SESSION_REVOKED").await);
    ask("refuse_calls", "")?;

    // The stream is cut, a session ends meanwhile, and the stream continues with its cursor.
    tokens = log_in(&mut auth, EMAIL, PASSWORD, LIMIT).await?;
    say("another", &become_one(&verifier, &tokens, "accepted").await);
    watching.abort();
    let _ = watching.await;
    ask("revoke_unseen", &tokens.session_id)?;
    watch(&verifier);
    say("resumed", &become_one(&verifier, &tokens, "SESSION_REVOKED").await);

    tokens = log_in(&mut auth, EMAIL, PASSWORD, LIMIT).await?;
    say("third", &become_one(&verifier, &tokens, "accepted").await);
    ask("end_user", &tokens.user_id)?;
    say("user_ended", &become_one(&verifier, &tokens, "SESSION_REVOKED").await);
    tokens = log_in(&mut auth, EMAIL, PASSWORD, LIMIT).await?;
    say("later_token", &become_one(&verifier, &tokens, "accepted").await);

    ask("revoke_key", "")?;
    say("key_revoked", &become_one(&verifier, &tokens, "SESSION_REVOKED").await);
    tokens = log_in(&mut auth, EMAIL, PASSWORD, LIMIT).await?;
    say("another_key", &become_one(&verifier, &tokens, "accepted").await);

    ask("stop_service", "")?;
    say("away", &become_one(&verifier, &tokens, "undecided").await);
    let refused = authenticate(&verifier, &tokens.access_token).await.unwrap_err();
    say("asked", &format!("{:?}", refused.code()));
    Ok(())
}

fn watch(verifier: &Arc<Verifier>) -> tokio::task::JoinHandle<()> {
    let verifier = verifier.clone();
    tokio::spawn(async move { verifier.watch().await })
}

#[derive(Deserialize)]
struct Case {
    name: String,
    token: String,
    jwks: String,
}

/// Says of each token that the test has prepared whether it is accepted.
fn check_tokens() -> Result<(), Box<dyn Error>> {
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(get("TOKENS"))?)?;
    for Case { name, token, jwks } in cases {
        let keys: JwkSet = serde_json::from_str(&jwks)?;
        let verdict = check(&token, &keys, &get("ISSUER"), &get("AUDIENCE"), None);
        eprintln!("{name}: {verdict:?}");
        say(&format!("token {name}"), if verdict.is_ok() { "accepted" } else { "refused" });
    }
    Ok(())
}

/// Verifies until the outcome is the expected one; the test has a time limit.
async fn become_one(verifier: &Verifier, tokens: &Tokens, expected: &str) -> String {
    let mut last = String::new();
    loop {
        let found = outcome(verifier, tokens).await;
        if found == expected {
            return found;
        }
        if found != last {
            eprintln!("{found}");
        }
        last = found;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Verifies many tokens of a key that does not exist, once the verifier knows enough.
async fn storm(verifier: &Verifier, tokens: &Tokens) -> String {
    while verifier.age().is_none_or(|age| age > Duration::from_secs(1)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, rest) = tokens.access_token.split_once('.').unwrap();
    let access_token = format!("{}.{rest}", get("UNKNOWN_KEY"));
    let unknown = Tokens { access_token, ..Default::default() };
    for _ in 0..20 {
        let found = outcome(verifier, &unknown).await;
        if found != "undecided" {
            return found;
        }
    }
    "undecided".into()
}

async fn outcome(verifier: &Verifier, tokens: &Tokens) -> String {
    match verifier.verify(&tokens.access_token, None).await {
        Ok(_) => "accepted".into(),
        Err(Rejection::Undecided) => "undecided".into(),
        Err(Rejection::Refused(reason)) => reason,
    }
}

fn ask(what: &str, about: &str) -> Result<(), Box<dyn Error>> {
    say(what, about);
    match std::io::stdin().read_line(&mut String::new())? {
        0 => Err("the test has ended".into()),
        _ => Ok(()),
    }
}

fn get(name: &str) -> String {
    env::var(format!("AUTHSVC_{name}")).expect(name)
}

fn say(name: &str, value: &str) {
    println!("{name} {value}");
}
