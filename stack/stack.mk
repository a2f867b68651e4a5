# The stack in containers: included by the Makefile, all paths from the top.

# Compose 2 is a plugin of docker, 1.29 a program of its own.
STACK_COMPOSE = $$(if docker compose version >/dev/null 2>&1; then echo docker compose; else echo docker-compose; fi) \
	--env-file stack/.env --project-directory stack -f stack/compose.yaml

.PHONY: stack stack-setup stack-need stack-down stack-logs

## stack: gateway, Prometheus, Grafana and Nginx in containers
stack: stack-need stack-setup
	VERSION=$$(git describe --tags --always --dirty 2>/dev/null || echo dev) \
	REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		$(STACK_COMPOSE) build
	$(STACK_COMPOSE) up -d
	@url="http://$$(sed -n 's/^STACK_ADDRESS=//p' stack/.env):$$(sed -n 's/^STACK_PORT=//p' stack/.env)"; \
	printf '\n%s\n' "pages:    $$url/resource-monitoring/" \
		"Grafana:  $$url/grafana/ (user admin, its password is in stack/.env)" \
		"push to:  $$url/api/v1/write, with the node's token of stack/secrets/"

## stack-setup: write stack/.env and stack/secrets once; what exists is kept
stack-setup:
	@stack/setup

## stack-down: stop it; what Prometheus and Grafana have stored stays
stack-down: stack-need
	$(STACK_COMPOSE) down

## stack-logs: follow what it says
stack-logs: stack-need
	$(STACK_COMPOSE) logs -f --tail=100

stack-need:
	@docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 || { \
		echo 'make stack needs Docker Compose: the plugin of Docker (docker compose) or docker-compose 1.29 or later' >&2; exit 1; }
	@docker info >/dev/null 2>&1 || { \
		echo 'make stack needs a running Docker engine that this account may use (docker info fails); without containers there is `make demo`' >&2; exit 1; }
