package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"time"

	"fanin/internal/admission"
	"fanin/internal/daemon"
	"fanin/internal/deployment"
	"fanin/internal/targets"
)

func checkStates(files []string) error {
	bad := 0
	for _, file := range files {
		project, err := deployment.Check(file)
		if err != nil {
			bad++
			fmt.Fprintln(os.Stderr, err)
		}
		if project != nil {
			fmt.Printf("%s: deployment %s, %d guests on %d hosts\n", file, project.Name, len(project.Guests), len(project.Hosts))
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d files have faults", bad, len(files))
	}
	return nil
}

func checkSettings(folder string) error {
	roster, err := deployment.CheckSettings(folder)
	for _, project := range roster.Projects() {
		fmt.Printf("deployment %s: %s, %d guests on %d hosts\n", project.Name, project.State, len(project.Guests), len(project.Hosts))
	}
	fmt.Printf("%d hosts may push\n", len(roster.Hosts()))
	if err != nil {
		return fmt.Errorf("faults in %s:\n%w", folder, err)
	}
	return nil
}

func checkNodesFile(file string) error {
	if err := admission.CheckNodes(file); err != nil {
		return err
	}
	fmt.Println(file + ": ok")
	return nil
}

func checkRulesFile(file string) error {
	n, err := targets.CheckRules(file)
	if err != nil {
		return err
	}
	fmt.Printf("%s: ok, %d rules\n", file, n)
	return nil
}

func checkWebConfig(file string) error {
	if err := daemon.CheckWebConfig(file); err != nil {
		return err
	}
	fmt.Println(file + ": ok")
	return nil
}

func makeToken(node string) error {
	if !deployment.ValidName(node) {
		return fmt.Errorf("%q is no valid host name", node)
	}
	token := rand.Text()
	hash := sha256.Sum256([]byte(token))
	fmt.Printf("token for the pusher on %s (its --push.bearer-token-file):\n%s\n", node, token)
	fmt.Printf("line for the gateway's nodes file:\n  %s: {token_sha256: %s}\n", node, hex.EncodeToString(hash[:]))
	return nil
}

func healthcheck(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return nil
}
