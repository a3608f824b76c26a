//! Verifies access tokens without a call: with the published keys, and with what
//! WatchRevocations says must no longer be accepted.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::RwLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::authsvc::auth_service_client::AuthServiceClient;
use crate::authsvc::revocation::Subject;
use crate::authsvc::session_service_client::SessionServiceClient;
use crate::authsvc::{GetJwksRequest, WatchRevocationsRequest, WatchRevocationsResponse};
use crate::connection::{answer, reason_of, within};

// docs: verify
/// Why a token is not accepted.
#[derive(Debug)]
pub enum Rejection {
    /// The verifier's knowledge is too old, so it may not decide by itself.
    Undecided,
    /// The token must not be accepted.
    Refused(String),
}

const MAX_STALENESS: Duration = Duration::from_secs(1); // older knowledge decides nothing
const PATIENCE: Duration = Duration::from_secs(5); // for a stream that tells nothing new
const KEY_COOLDOWN: Duration = Duration::from_secs(5); // between two searches for a key
const CLOCK_SKEW: u64 = 5; // seconds, as in the service's tokens.clock_skew

#[derive(Debug, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub iat: i64,
    pub sid: Option<String>, // a service's own token has none
    cnf: Option<Confirmation>,
}

#[derive(Debug, Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    thumbprint: Option<String>,
}

/// Verifies everything about a token that can be seen from it and the keys.
pub fn check(
    token: &str,
    keys: &JwkSet,
    issuer: &str,
    audience: &str,
    thumbprint: Option<&str>,
) -> Result<Claims, Rejection> {
    let refused = |error: jsonwebtoken::errors::Error| Rejection::Refused(error.to_string());
    let header = decode_header(token).map_err(refused)?;
    let key = keys.find(header.kid.as_deref().unwrap_or_default());
    // The key decides the algorithm, never the token.
    let algorithm = key.and_then(|key| key.common.key_algorithm);
    let (Some(key), Some(algorithm)) = (key, algorithm) else {
        return Err(Rejection::Refused("SIGNATURE_INVALID".into()));
    };
    let mut validation =
        Validation::new(Algorithm::from_str(&algorithm.to_string()).map_err(refused)?);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = CLOCK_SKEW;
    if header.typ.as_deref() != Some("at+jwt") {
        return Err(Rejection::Refused("MALFORMED".into()));
    }
    let decoding = DecodingKey::from_jwk(key).map_err(refused)?;
    let claims = decode::<Claims>(token, &decoding, &validation).map_err(refused)?.claims;
    match &claims.cnf {
        Some(bound) if thumbprint.is_none() || bound.thumbprint.as_deref() != thumbprint => {
            Err(Rejection::Refused("CERTIFICATE_MISMATCH".into()))
        }
        _ => Ok(claims),
    }
}

impl Verifier {
    /// Returns the claims of an access token that may be accepted. `thumbprint` is the x5t#S256
    /// of the certificate that the token came with.
    pub async fn verify(&self, token: &str, thumbprint: Option<&str>) -> Result<Claims, Rejection> {
        if self.age().is_none_or(|age| age > MAX_STALENESS) {
            return Err(Rejection::Undecided);
        }
        let header =
            decode_header(token).map_err(|error| Rejection::Refused(error.to_string()))?;
        let id = header.kid.unwrap_or_default();
        self.find_key(&id).await?;
        let state = self.state.read().unwrap();
        let claims = check(token, &state.keys, &self.issuer, &self.audience, thumbprint)?;
        let session = claims.sid.as_deref().unwrap_or_default();
        let user = state.users.get(&claims.sub);
        if state.sessions.contains_key(session)
            || state.bad_keys.contains_key(&id)
            || user.is_some_and(|event| claims.iat <= event.second)
        {
            return Err(Rejection::Refused("SESSION_REVOKED".into()));
        }
        Ok(claims)
    }

    /// Returns how old the verifier's knowledge is, if there is any.
    pub fn age(&self) -> Option<Duration> {
        self.state.read().unwrap().known_until.map(|until| until.elapsed())
    }
}
// docs: end

/// Holds the published keys and what was revoked.
pub struct Verifier {
    pub auth: AuthServiceClient<Channel>,
    sessions: SessionServiceClient<Channel>,
    issuer: String,
    pub audience: String,
    fetching: Mutex<Option<Instant>>, // when the keys could not be fetched
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    keys: JwkSet,
    keys_time: Option<Instant>,
    sessions: HashMap<String, i64>, // each with the time to forget it
    bad_keys: HashMap<String, i64>,
    users: HashMap<String, UserEvent>,
    swept: i64,
    known_until: Option<Instant>,
    cursor: String,
}

struct UserEvent {
    second: i64, // tokens issued in it or before are refused
    forget: i64,
}

impl Verifier {
    /// Returns a verifier that knows nothing until `watch` runs.
    pub fn new(channel: Channel, issuer: &str, audience: &str) -> Self {
        Self {
            auth: AuthServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel),
            issuer: issuer.into(),
            audience: audience.into(),
            fetching: Mutex::default(),
            state: RwLock::default(),
        }
    }

    // docs: keys
    /// Fetches the keys again if `id` is not among them. Whoever sends unknown keys causes one
    /// call in a while, even if it fails, and all who wait for it share it.
    async fn find_key(&self, id: &str) -> Result<(), Rejection> {
        if self.is_settled(id) {
            return Ok(());
        }
        let mut failed = self.fetching.lock().await;
        if self.is_settled(id) {
            return Ok(());
        }
        if failed.is_some_and(|time| time.elapsed() < KEY_COOLDOWN) {
            return Err(Rejection::Undecided);
        }
        let fetched = self.fetch_keys().await;
        *failed = fetched.is_err().then(Instant::now);
        fetched
    }

    async fn fetch_keys(&self) -> Result<(), Rejection> {
        let request = within(Duration::from_secs(5), GetJwksRequest {});
        let jwks = answer(self.auth.clone().get_jwks(request).await)
            .map_err(|_| Rejection::Undecided)?
            .jwks_json;
        let keys = serde_json::from_str(&jwks).map_err(|_| Rejection::Undecided)?;
        let mut state = self.state.write().unwrap();
        state.keys = keys;
        state.keys_time = Some(Instant::now());
        Ok(())
    }

    /// Returns whether `id` is known, or the keys are too young to be fetched again.
    fn is_settled(&self, id: &str) -> bool {
        let state = self.state.read().unwrap();
        state.keys.find(id).is_some()
            || state.keys_time.is_some_and(|time| time.elapsed() < KEY_COOLDOWN)
    }
    // docs: end

    // docs: watch
    /// Follows the revocations until the task is aborted. After an error it continues with the
    /// cursor of the last response, on any replica.
    pub async fn watch(&self) {
        let mut pause = Duration::from_millis(100);
        loop {
            let began = Instant::now();
            if let Err(status) = self.follow().await
                && reason_of(&status) == "CURSOR_TOO_OLD"
            {
                // Then everything that may still matter is sent again.
                self.state.write().unwrap().cursor.clear();
            }
            if began.elapsed() > PATIENCE {
                pause = Duration::from_millis(100);
            }
            // At a random time, so that verifiers don't all come back at once.
            sleep(pause.mul_f64(fastrand::f64())).await;
            pause = PATIENCE.min(2 * pause);
        }
    }

    async fn follow(&self) -> Result<(), Status> {
        let cursor = self.state.read().unwrap().cursor.clone();
        let sent = Instant::now();
        let mut client = self.sessions.clone();
        let call = client.watch_revocations(WatchRevocationsRequest { cursor });
        let mut stream = timeout(PATIENCE, call).await.map_err(silent)??.into_inner();
        let mut first = None;
        let mut fresh = Instant::now();
        while let Some(response) = timeout(PATIENCE, stream.message()).await.map_err(silent)?? {
            let until = time_of(&response);
            // The first response was made after the request was sent. So whatever clocks show, and
            // however long this one took: all is known that was acknowledged before that long ago.
            let since = until.duration_since(*first.get_or_insert(until)).unwrap_or_default();
            let complete = response.complete;
            self.learn(response, sent + since);
            if !complete || self.age().is_some_and(|age| age <= MAX_STALENESS) {
                fresh = Instant::now();
            } else if fresh.elapsed() > PATIENCE {
                // They stay late, so the database's clock was set: a new stream helps.
                return Err(Status::aborted("the responses are late"));
            }
        }
        Ok(())
    }

    fn learn(&self, response: WatchRevocationsResponse, known: Instant) {
        let mut state = self.state.write().unwrap();
        for ended in response.revocations {
            let second = ended.revoke_time.unwrap_or_default().seconds;
            let forget = ended.expire_time.unwrap_or_default().seconds + CLOCK_SKEW as i64;
            match ended.subject {
                Some(Subject::SessionId(id)) => drop(state.sessions.insert(id, forget)),
                Some(Subject::KeyId(id)) => {
                    state.bad_keys.insert(id, forget);
                    state.keys_time = None; // another key has taken over
                }
                Some(Subject::UserId(id)) => {
                    let event = state.users.entry(id).or_insert(UserEvent { second, forget });
                    event.second = event.second.max(second);
                    event.forget = event.forget.max(forget);
                }
                _ => {}
            }
        }
        state.cursor = response.cursor;
        // Otherwise it is a page of several: more comes at once.
        if response.complete {
            state.known_until = Some(known.min(Instant::now()));
            state.forget();
        }
    }
    // docs: end
}

impl State {
    fn forget(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = now.as_secs() as i64;
        if now - self.swept < 60 {
            return;
        }
        self.swept = now;
        self.sessions.retain(|_, when| *when >= now);
        self.bad_keys.retain(|_, when| *when >= now);
        self.users.retain(|_, event| event.forget >= now);
    }
}

fn silent(_: tokio::time::error::Elapsed) -> Status {
    Status::aborted("the stream is silent")
}

fn time_of(response: &WatchRevocationsResponse) -> SystemTime {
    let time = response.known_until_time.unwrap_or_default();
    UNIX_EPOCH + Duration::new(time.seconds as u64, time.nanos as u32)
}
