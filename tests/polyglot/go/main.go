// Walks through a client's life, and prints a line for each step.
//
// A step that waits for the test prints "name value" and reads a line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"google.golang.org/grpc/status"

	authsvc "example.test/client/gen/go/authsvc/v1"
)

const password = "Correct-Horse-7-Battery"

var input = bufio.NewScanner(os.Stdin)

func main() {
	ctx := context.Background()
	channel, err := connect(os.Getenv("AUTHSVC_ADDRESS"), os.Getenv("AUTHSVC_CA"),
		os.Getenv("AUTHSVC_CERT"), os.Getenv("AUTHSVC_KEY"))
	must(err)
	defer channel.Close()
	auth := authsvc.NewAuthServiceClient(channel)
	client := &authsvc.ClientContext{Ip: "203.0.113.7", UserAgent: "polyglot", DeviceId: "device"}
	email := "go@example.com"

	account, err := register(ctx, auth, email, password, client)
	must(err)
	say("registered", account.UserId)
	tokens, err := logIn(ctx, auth, email, password, client)
	must(err)
	say("logged_in", tokens.SessionId)
	_, err = logIn(ctx, auth, email, "wrong", client)
	say("wrong_password", reasonOf(err))
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	_, err = logIn(short, auth, email, password, client)
	cancel()
	say("deadline", status.Code(err))
	tokens, err = refresh(ctx, auth, tokens.RefreshToken)
	must(err)
	say("refreshed", tokens.SessionId)

	checkTokens()

	verifier := NewVerifier(channel, os.Getenv("AUTHSVC_ISSUER"), os.Getenv("AUTHSVC_AUDIENCE"))
	_, err = verifier.Verify(ctx, tokens.AccessToken, "")
	say("before_watching", outcome(err))
	watching, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() { verifier.Watch(watching); close(stopped) }()
	say("unknown_keys", storm(ctx, verifier, tokens))
	ask("mend_keys", "")
	say("verified", await(ctx, verifier, tokens, "accepted"))

	ask("revoke_session", tokens.SessionId)
	say("revoked", await(ctx, verifier, tokens, "SESSION_REVOKED"))
	ask("refuse_calls", "")

	// The stream is cut, a session ends meanwhile, and the stream continues with its cursor.
	tokens, err = logIn(ctx, auth, email, password, client)
	must(err)
	say("another", await(ctx, verifier, tokens, "accepted"))
	stop()
	<-stopped
	ask("revoke_unseen", tokens.SessionId)
	watching, stop = context.WithCancel(ctx)
	defer stop()
	go verifier.Watch(watching)
	say("resumed", await(ctx, verifier, tokens, "SESSION_REVOKED"))

	tokens, err = logIn(ctx, auth, email, password, client)
	must(err)
	say("third", await(ctx, verifier, tokens, "accepted"))
	ask("end_user", tokens.UserId)
	say("user_ended", await(ctx, verifier, tokens, "SESSION_REVOKED"))
	tokens, err = logIn(ctx, auth, email, password, client)
	must(err)
	say("later_token", await(ctx, verifier, tokens, "accepted"))

	ask("revoke_key", "")
	say("key_revoked", await(ctx, verifier, tokens, "SESSION_REVOKED"))
	tokens, err = logIn(ctx, auth, email, password, client)
	must(err)
	say("another_key", await(ctx, verifier, tokens, "accepted"))

	ask("stop_service", "")
	say("away", await(ctx, verifier, tokens, "undecided"))
	err = authenticate(ctx, verifier, tokens.AccessToken)
	say("asked", status.Code(err))
}

// docs: login
func register(ctx context.Context, auth authsvc.AuthServiceClient, email, password string,
	client *authsvc.ClientContext) (*authsvc.RegisterResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return auth.Register(ctx, &authsvc.RegisterRequest{Email: email, Password: password, Client: client})
}

func logIn(ctx context.Context, auth authsvc.AuthServiceClient, email, password string,
	client *authsvc.ClientContext) (*authsvc.Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := repeated(ctx, func() (*authsvc.LoginResponse, error) {
		return auth.Login(ctx, &authsvc.LoginRequest{Email: email, Password: password, Client: client})
	})
	if err != nil {
		return nil, err
	}
	if answer.GetMfa() != nil {
		return nil, errors.New("a second factor is needed: continue with VerifyMfa")
	}
	return answer.GetTokens(), nil
}

func refresh(ctx context.Context, auth authsvc.AuthServiceClient, token string) (*authsvc.Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := repeated(ctx, func() (*authsvc.RefreshTokensResponse, error) {
		return auth.RefreshTokens(ctx, &authsvc.RefreshTokensRequest{RefreshToken: token})
	})
	return answer.GetTokens(), err
}

// docs: end

// docs: away
// authenticate verifies a token without a call, and asks the service when the verifier may not
// decide. If that fails too, so does the request: nothing is accepted because nobody could be asked.
func authenticate(ctx context.Context, verifier *Verifier, token string) error {
	_, err := verifier.Verify(ctx, token, "")
	if !errors.Is(err, ErrUndecided) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := verifier.Auth.ValidateToken(ctx, &authsvc.ValidateTokenRequest{
		AccessToken: token, Audience: verifier.Audience})
	if err != nil {
		return err
	}
	if !answer.Active {
		return errors.New(answer.InactiveReason.String())
	}
	return nil
}

// docs: end

// checkTokens says of each token that the test has prepared whether it is accepted.
func checkTokens() {
	var cases []struct{ Name, Token, Jwks string }
	text, err := os.ReadFile(os.Getenv("AUTHSVC_TOKENS"))
	must(err)
	must(json.Unmarshal(text, &cases))
	for _, each := range cases {
		keys, err := jwk.ParseString(each.Jwks)
		must(err)
		_, err = check(each.Token, keys, os.Getenv("AUTHSVC_ISSUER"), os.Getenv("AUTHSVC_AUDIENCE"), "")
		log.Print(each.Name, ": ", err)
		verdict := "accepted"
		if err != nil {
			verdict = "refused"
		}
		say("token "+each.Name, verdict)
	}
}

// await verifies until the outcome is the expected one; the test has a time limit.
func await(ctx context.Context, verifier *Verifier, tokens *authsvc.Tokens, expected string) string {
	last := ""
	for {
		_, err := verifier.Verify(ctx, tokens.AccessToken, "")
		found := outcome(err)
		if found == expected {
			return found
		}
		if found != last {
			log.Print(err)
		}
		last = found
		time.Sleep(20 * time.Millisecond)
	}
}

// storm verifies many tokens of a key that does not exist, once the verifier knows enough.
func storm(ctx context.Context, verifier *Verifier, tokens *authsvc.Tokens) string {
	for verifier.Age() > maxStaleness {
		time.Sleep(20 * time.Millisecond)
	}
	_, rest, _ := strings.Cut(tokens.AccessToken, ".")
	for range 20 {
		if _, err := verifier.Verify(ctx, os.Getenv("AUTHSVC_UNKNOWN_KEY")+"."+rest, ""); outcome(err) != "undecided" {
			return outcome(err)
		}
	}
	return "undecided"
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, ErrUndecided):
		return "undecided"
	}
	return err.Error()
}

func ask(what, about string) {
	say(what, about)
	if !input.Scan() {
		log.Fatal("the test has ended")
	}
}

func say(name string, value any) { fmt.Println(name, value) }

func must(err error) {
	if err != nil {
		log.Fatal(err, " ", reasonOf(err))
	}
}
