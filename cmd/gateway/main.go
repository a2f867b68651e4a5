// Command gateway takes what pushers send, checks it against the active
// deployments and serves it to Prometheus and to people.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"fanin/internal/daemon"
)

func main() {
	app, logger := daemon.App("gateway", "Takes samples from the testbed's pushers, checks them against the active deployments, and serves them to Prometheus and as pages.")
	o := flags(app)

	run := app.Command("run", "Run the gateway (the default).").Default()

	check := app.Command("check", "Check files without starting anything.")
	checkState := check.Command("state", "Check deployments' state files.")
	stateFiles := checkState.Arg("file", "A <project>-state.json file.").Required().Strings()
	checkFolder := check.Command("settings", "Check TestbedOS' settings folder and all it leads to.")
	settings := checkFolder.Arg("folder", "The folder given to --testbedos.settings.").Required().String()
	checkNodes := check.Command("nodes", "Check a file of nodes' tokens.")
	nodesFile := checkNodes.Arg("file", "The file given to --push.nodes-file.").Required().String()
	checkRules := check.Command("exporter-rules", "Check a file of exporter rules.")
	rulesFile := checkRules.Arg("file", "The file given to --exporter.rules.").Required().String()
	checkWeb := check.Command("web-config", "Check a web configuration file.")
	webFile := checkWeb.Arg("file", "The file given to --web.config.file.").Required().String()

	token := app.Command("token", "Make a token for a node and print it with its line for the nodes file.")
	tokenNode := token.Arg("node", "The node's host name.").Required().String()

	health := app.Command("healthcheck", "Exit with 0 if a gateway answers, for a container's health check.")
	healthURL := health.Flag("url", "Where the gateway answers.").Default("http://127.0.0.1:9370/healthz").String()

	var err error
	switch kingpin.MustParse(app.Parse(os.Args[1:])) {
	case run.FullCommand():
		err = runGateway(context.Background(), logger(), o)
	case checkState.FullCommand():
		err = checkStates(*stateFiles)
	case checkFolder.FullCommand():
		err = checkSettings(*settings)
	case checkNodes.FullCommand():
		err = checkNodesFile(*nodesFile)
	case checkRules.FullCommand():
		err = checkRulesFile(*rulesFile)
	case checkWeb.FullCommand():
		err = checkWebConfig(*webFile)
	case token.FullCommand():
		err = makeToken(*tokenNode)
	case health.FullCommand():
		err = healthcheck(*healthURL)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}
