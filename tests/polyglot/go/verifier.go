// Verifies access tokens without a call: with the published keys, and with what
// WatchRevocations says must no longer be accepted.
package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"google.golang.org/grpc"

	authsvc "example.test/client/gen/go/authsvc/v1"
)

// docs: verify
var (
	// ErrUndecided: the verifier's knowledge is too old, so it may not decide by itself.
	ErrUndecided = errors.New("authsvc has not been heard of lately")
	// ErrRevoked: the token, its session or its key was ended.
	ErrRevoked = errors.New("SESSION_REVOKED")
)

const (
	maxStaleness = time.Second     // older knowledge decides nothing
	patience     = 5 * time.Second // a stream that tells nothing new for so long is opened anew
	keyCooldown  = 5 * time.Second // between two searches for unknown keys, found or failed
	clockSkew    = 5 * time.Second // as in the service's tokens.clock_skew
)

type userEvent struct {
	second int64 // tokens issued in it or before are refused
	forget time.Time
}

// Verifier holds the published keys and what was revoked.
type Verifier struct {
	Issuer, Audience string
	Auth             authsvc.AuthServiceClient
	Sessions         authsvc.SessionServiceClient

	fetching   sync.Mutex // of failed, too
	failed     time.Time  // when the keys could not be fetched
	mutex      sync.RWMutex // of all below
	keys       jwk.Set
	keysTime   time.Time
	sessions   map[string]time.Time // each with the time to forget it
	users      map[string]userEvent
	badKeys    map[string]time.Time
	swept      time.Time
	knownUntil time.Time // on the monotonic clock
	cursor     string
}

// NewVerifier returns a verifier that knows nothing until Watch runs.
func NewVerifier(channel grpc.ClientConnInterface, issuer, audience string) *Verifier {
	return &Verifier{
		Issuer: issuer, Audience: audience,
		Auth:     authsvc.NewAuthServiceClient(channel),
		Sessions: authsvc.NewSessionServiceClient(channel),
		sessions: map[string]time.Time{}, users: map[string]userEvent{}, badKeys: map[string]time.Time{},
	}
}

// Verify returns the claims of an access token that may be accepted. `thumbprint` is the
// x5t#S256 of the certificate that the token came with, or "".
func (v *Verifier) Verify(ctx context.Context, token, thumbprint string) (jwt.Token, error) {
	if v.Age() > maxStaleness {
		return nil, ErrUndecided
	}
	keys, err := v.keysFor(ctx, token)
	if err != nil {
		return nil, err
	}
	claims, err := check(token, keys, v.Issuer, v.Audience, thumbprint)
	if err != nil {
		return nil, err
	}
	return claims, v.refuseRevoked(token, claims)
}

// check verifies everything about a token that can be seen from it and the keys.
func check(token string, keys jwk.Set, issuer, audience, thumbprint string) (jwt.Token, error) {
	header, err := headerOf(token)
	if err != nil {
		return nil, err
	}
	if kind, _ := header.Type(); kind != "at+jwt" {
		return nil, errors.New("not an access token")
	}
	// The key decides the algorithm, never the token.
	claims, err := jwt.ParseString(token, jwt.WithKeySet(keys, jws.WithRequireKid(true)),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithAcceptableSkew(clockSkew),
		jwt.WithRequiredClaim("exp"), jwt.WithRequiredClaim("iat"), jwt.WithRequiredClaim("sub"))
	if err != nil {
		return nil, err
	}
	var bound map[string]any
	if claims.Get("cnf", &bound) == nil && (thumbprint == "" || bound["x5t#S256"] != thumbprint) {
		return nil, errors.New("CERTIFICATE_MISMATCH")
	}
	return claims, nil
}

func (v *Verifier) refuseRevoked(token string, claims jwt.Token) error {
	header, err := headerOf(token)
	if err != nil {
		return err
	}
	key, _ := header.KeyID()
	user, _ := claims.Subject()
	issued, _ := claims.IssuedAt()
	var session string // a service's own token has none
	_ = claims.Get("sid", &session)

	v.mutex.RLock()
	defer v.mutex.RUnlock()
	_, ended := v.sessions[session]
	_, compromised := v.badKeys[key]
	event, known := v.users[user]
	if ended || compromised || known && issued.Unix() <= event.second {
		return ErrRevoked
	}
	return nil
}

// Age returns how old the verifier's knowledge is.
func (v *Verifier) Age() time.Duration {
	v.mutex.RLock()
	defer v.mutex.RUnlock()
	return v.age()
}

// docs: end

func (v *Verifier) age() time.Duration {
	if v.knownUntil.IsZero() {
		return 1<<63 - 1
	}
	return time.Since(v.knownUntil)
}

func headerOf(token string) (jws.Headers, error) {
	message, err := jws.ParseString(token, jws.WithCompact())
	if err != nil {
		return nil, err
	}
	return message.Signatures()[0].ProtectedHeaders(), nil
}

// docs: keys
// keysFor returns the keys, fetched again if the token's is not among them. Whoever sends unknown
// keys causes one call in a while, even if it fails, and all who wait for it share it.
func (v *Verifier) keysFor(ctx context.Context, token string) (jwk.Set, error) {
	header, err := headerOf(token)
	if err != nil {
		return nil, err
	}
	id, _ := header.KeyID()
	if keys := v.knownKeys(id); keys != nil {
		return keys, nil
	}
	v.fetching.Lock()
	defer v.fetching.Unlock()
	if keys := v.knownKeys(id); keys != nil {
		return keys, nil
	}
	if time.Since(v.failed) < keyCooldown {
		return nil, ErrUndecided
	}
	keys, err := v.fetchKeys(ctx)
	if err != nil {
		v.failed = time.Now()
		return nil, errors.Join(ErrUndecided, err)
	}
	v.mutex.Lock()
	defer v.mutex.Unlock()
	v.keys, v.keysTime = keys, time.Now()
	return keys, nil
}

// fetchKeys outlasts the caller's context, as others wait for the answer, too.
func (v *Verifier) fetchKeys(ctx context.Context) (jwk.Set, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	answer, err := v.Auth.GetJwks(ctx, &authsvc.GetJwksRequest{})
	if err != nil {
		return nil, err
	}
	return jwk.ParseString(answer.JwksJson)
}

// knownKeys returns the keys if `id` is among them or they are too young to be fetched again.
func (v *Verifier) knownKeys(id string) jwk.Set {
	v.mutex.RLock()
	defer v.mutex.RUnlock()
	if v.keys != nil {
		if _, known := v.keys.LookupKeyID(id); known || time.Since(v.keysTime) < keyCooldown {
			return v.keys
		}
	}
	return nil
}

// docs: end

// docs: watch
// Watch follows the revocations until the context ends. After an error it continues with the
// cursor of the last response, on any replica.
func (v *Verifier) Watch(ctx context.Context) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := v.follow(ctx)
		if reasonOf(err) == "CURSOR_TOO_OLD" {
			v.cursor = "" // everything that may still matter is sent again
		}
		if time.Since(began) > patience {
			pause = 100 * time.Millisecond
		}
		select { // at a random time, so that verifiers don't all come back at once
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, patience)
	}
}

func (v *Verifier) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alarm := time.AfterFunc(patience, cancel)
	defer alarm.Stop()

	sent := time.Now()
	stream, err := v.Sessions.WatchRevocations(ctx, &authsvc.WatchRevocationsRequest{Cursor: v.cursor})
	if err != nil {
		return err
	}
	var first time.Time
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if first.IsZero() {
			first = response.KnownUntilTime.AsTime()
		}
		// The first response was made after the request was sent. So whatever clocks show, and
		// however long this one took: all is known that was acknowledged before that long ago.
		known := sent.Add(response.KnownUntilTime.AsTime().Sub(first))
		// Responses that stay late mean that the database's clock was set: a new stream helps.
		if v.learn(response, known) <= maxStaleness {
			alarm.Reset(patience)
		}
	}
}

// learn takes a response in, and returns how old the knowledge is then.
func (v *Verifier) learn(response *authsvc.WatchRevocationsResponse, known time.Time) time.Duration {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	for _, ended := range response.Revocations {
		forget := ended.ExpireTime.AsTime().Add(clockSkew)
		switch subject := ended.Subject.(type) {
		case *authsvc.Revocation_SessionId:
			v.sessions[subject.SessionId] = forget
		case *authsvc.Revocation_UserId:
			before := v.users[subject.UserId]
			v.users[subject.UserId] = userEvent{
				max(before.second, ended.RevokeTime.Seconds), later(before.forget, forget)}
		case *authsvc.Revocation_KeyId:
			v.badKeys[subject.KeyId] = forget
			v.keysTime = time.Time{} // another key has taken over
		}
	}
	v.cursor = response.Cursor
	if !response.Complete { // a page of several: more comes at once
		return 0
	}
	now := time.Now()
	if known.After(now) {
		known = now
	}
	v.knownUntil = known
	v.forget(now)
	return v.age()
}

// docs: end

func (v *Verifier) forget(now time.Time) {
	if now.Sub(v.swept) < time.Minute {
		return
	}
	v.swept = now
	maps.DeleteFunc(v.sessions, func(_ string, when time.Time) bool { return when.Before(now) })
	maps.DeleteFunc(v.badKeys, func(_ string, when time.Time) bool { return when.Before(now) })
	maps.DeleteFunc(v.users, func(_ string, event userEvent) bool { return event.forget.Before(now) })
}

func later(one, other time.Time) time.Time {
	if one.After(other) {
		return one
	}
	return other
}
