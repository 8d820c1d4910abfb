# docker build --build-arg VERSION=$(git describe --tags --always) -t walrill .
# docker run -v "$PWD/walrill.yaml:/etc/walrill/walrill.yaml:ro" walrill
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /walrill ./cmd/walrill

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /walrill /walrill
WORKDIR /etc/walrill
USER 65532:65532
EXPOSE 8077
ENTRYPOINT ["/walrill"]
CMD ["run"]
